# SPDX-License-Identifier: Apache-2.0
"""Unreadable videos: reports, counts and lists them, and stops the run if there are too many."""

from collections.abc import Iterable
from pathlib import Path

from vivit_jax.data.manifest import Manifest
from vivit_jax.data.tables import as_csv, parse_table, read_text
from vivit_jax.distributed import hosts
from vivit_jax.errors import DataError
from vivit_jax.files import naming

FILE = 'skipped.csv'


class Failures:
  """Collects failures and appends each video's first failure to `folder/skipped.csv`.

  An existing file of an earlier run is continued; every path is listed once. In a multi-process
  run, process 0 writes the file and counts the failures that it has collected from all processes.

  Attributes:
    count: number of failures, including repeated ones of the same video.
    reasons: first reason by path, in order of occurrence.
  """

  def __init__(self, manifest: Manifest, max_bad_fraction: float, folder: Path):
    """Takes the manifest and the maximum fraction of its videos that may fail."""
    self._title = manifest.title
    self._videos = len(manifest.videos)
    self._max_bad_share = max_bad_fraction
    self._file = folder / FILE
    self._topic = f'{FILE}/{manifest.split}'
    self._listed = self._read()
    self.count = 0
    self.reasons: dict[str, str] = {}

  def add(self, failures: Iterable[tuple[str, str]]) -> None:
    """Adds (path, reason) pairs.

    Raises:
      DataError: more than the maximum fraction of the videos cannot be read.
    """
    for path, reason in failures:
      self.count += 1
      if path not in self.reasons:
        self.reasons[path] = reason
        if hosts.is_first():
          self._list(path, reason)
        else:
          hosts.post(self._topic, (path, reason))
    bad = len(self.reasons)
    if bad > self._max_bad_share * self._videos:
      path, reason = next(iter(self.reasons.items()))
      raise DataError(
        f'{bad} of the {self._videos} videos in {self._title} cannot be read, more than '
        f'config.data.max_bad_fraction={self._max_bad_share}; the first is {path}: {reason}; '
        f'all are in {self._file}'
      )

  def collect(self) -> None:
    """Adds, in process 0, the failures of the other processes since the last call.

    Raises:
      DataError: as `add`.
    """
    if hosts.is_first():
      self.add([(path, reason) for path, reason in hosts.collect(self._topic)])

  def _read(self) -> set[str]:
    if not self._file.exists():
      return set()
    try:
      if not self._file.is_file():
        raise ValueError('it is not a regular file')
      table = parse_table(self._file, read_text(self._file), columns=('path',))
      return {cells['path'] for _, cells in table}
    except (ValueError, DataError) as error:
      why = str(error).removeprefix(f'{self._file} ')
      raise DataError(f'{self._file} is damaged ({why}): delete it') from None

  def _list(self, path: str, reason: str) -> None:
    if path in self._listed:
      return
    self._listed.add(path)
    rows = [(path, reason)] if self._file.exists() else [('path', 'reason'), (path, reason)]
    with naming(self._file), self._file.open('ab') as handle:
      handle.write(as_csv(rows))
