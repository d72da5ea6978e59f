# SPDX-License-Identifier: Apache-2.0
"""A check of a whole data set that can be interrupted: what is known stays known."""

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vivit_jax.config import Task
from vivit_jax.data.check import CRASHED, LARGE, SLOW, File, Found, Span, examine_all
from vivit_jax.data.manifest import SPLITS, read_manifest
from vivit_jax.data.prepare.shards import is_prepared
from vivit_jax.data.quarantine import Bad, read_list, write_list
from vivit_jax.errors import DataError, printable

# What another machine, or the same one on another day, may see otherwise: examined again.
PASSING = (SLOW, CRASHED, LARGE, 'missing', 'no permission', 'cannot be read')


def files_of(root: Path, splits: Sequence[str]) -> list[File]:
  """Returns the files that manifests name, each once, in their order.

  Args:
    root: folder of the manifests.
    splits: their names without `.csv`.

  Raises:
    DataError: a manifest that cannot be used, whatever its labels.
  """
  spans: dict[str, dict[Span, None]] = {}
  for split in splits:
    for video in read_manifest(root, split, Task(heads=(), classes=())).videos:
      spans.setdefault(video.path, {})[video.start, video.end] = None
  base = os.path.abspath(root)
  return [
    File(os.path.relpath(place, base), place, tuple(span for span in rows if span != (None, None)))
    for place, rows in spans.items()
  ]


def splits_of(root: Path) -> list[str]:
  """Returns which manifests a folder has; raises DataError where there is none to check."""
  if is_prepared(root):
    raise DataError(f'{root} holds prepared videos, which were verified as they were written')
  found = [split for split in SPLITS if (root / f'{split}.csv').is_file()]
  if not found:
    names = ', '.join(f'{split}.csv' for split in SPLITS)
    raise DataError(f'{root} has none of {names}: give the folder of the manifests, or a CSV')
  return found


@dataclasses.dataclass
class Check:
  """What is known of the files of a data set.

  Attributes:
    files: all of them.
    output: the list to write.
    found: by path, of the files that were examined, now or by an earlier run.
  """

  files: list[File]
  output: Path
  quick: bool = False
  found: dict[str, list[Found]] = dataclasses.field(default_factory=dict)

  def run(self, workers: int, seconds: float | None) -> None:
    """Examines what no earlier run did; whatever ends it, the list has what is known by then."""
    self.found = self._known()
    left = [file for file in self.files if file.path not in self.found]
    if len(left) < len(self.files):
      print(f'{len(self.files) - len(left):,} of {len(self.files):,} files are known already')
    stream = examine_all(left, workers, self.quick, seconds)
    try:
      with (
        contextlib.closing(stream),
        self._journal.open('a', encoding='utf-8') as journal,
        tqdm(total=len(left), desc='check', unit='video') as bar,
      ):
        for file, found in stream:
          self.found[file.path] = found
          journal.write(json.dumps([*_state(file), self.quick, found]) + '\n')
          journal.flush()
          bar.set_postfix(bad=self.bad, refresh=False)
          bar.update()
    finally:
      write_list(self.output, self._list())

  @property
  def bad(self) -> int:
    """How many of the files have something wrong."""
    return sum(map(bool, self.found.values()))

  def table(self) -> str:
    """Returns how often each kind of reason was found, and one of each."""
    listed = [bad for bad in self._list() if bad.path in self.found]
    kinds = Counter(bad.kind for bad in listed)
    first = {bad.kind: bad for bad in reversed(listed)}
    lines = [f'{"bad":>8}  {"kind":18}  for example']
    for kind, count in kinds.most_common():
      detail = first[kind].reason.removeprefix(f'{kind}: ')
      lines.append(printable(f'{count:8,}  {kind:18}  {first[kind].path}: {detail}'))
    return '\n'.join(lines)

  @property
  def _journal(self) -> Path:
    return self.output.with_name(f'.{self.output.name}.checked')

  def _list(self) -> list[Bad]:
    """Returns what is bad in the order of the files, then what an earlier list has of others."""
    rows = [Bad(f.path, *found) for f in self.files for found in self.found.get(f.path, ())]
    return rows + [bad for bad in read_list(self.output) if bad.path not in self.found]

  def _known(self) -> dict[str, list[Found]]:
    """Returns what an earlier run found in files that have not changed since."""
    try:
      lines = self._journal.read_text(encoding='utf-8').splitlines()
    except FileNotFoundError:
      return {}
    states = {file.path: _state(file) for file in self.files}
    known: dict[str, list[Found]] = {}
    for line in lines:
      with contextlib.suppress(ValueError):  # the line at which a run was killed
        *state, quick, rows = json.loads(line)
        found: list[Found] = [(start, end, reason) for start, end, reason in rows]
        lasting = not any(reason.startswith(PASSING) for _, _, reason in found)
        if states.get(state[0]) == state and lasting and (self.quick or not quick):
          known[state[0]] = found
    return known


def _state(file: File) -> list:
  """Returns what identifies a file as it is now: path, size, time of change and its rows."""
  spans = [list(span) for span in file.spans]
  try:
    now = os.stat(file.place)
  except (OSError, ValueError):
    return [file.path, None, None, spans]
  return [file.path, now.st_size, now.st_mtime_ns, spans]
