# SPDX-License-Identifier: Apache-2.0
"""Features on disk: one atomically written file per video, and an index of all videos."""

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from jaxtyping import Float32, Float64
from tqdm import tqdm

from vivit_jax.data.manifest import Video
from vivit_jax.data.tables import as_csv
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.evaluate.prediction_files import import_parquet
from vivit_jax.files import naming, replace_file, write_json
from vivit_jax.inference.features import Extractor, open_stream

SETTINGS, INDEX = 'features.json', 'index.csv'
COLUMNS = ('path', 'start', 'end', 'file', 'rows', 'error')

Format = Literal['npy', 'parquet']


class Writer(Protocol):
  """Writes the rows of one file, in order."""

  def write(self, seconds: np.ndarray, values: np.ndarray) -> None:
    """Appends rows."""

  def close(self) -> None:
    """Finishes the file."""


class NumpyWriter:
  """Writes a structured array with fields `seconds` [2] and `features` [D] or [S, D] per row."""

  def __init__(self, file: Path, rows: int, row: tuple[int, ...]):
    """Creates a file with this number of rows."""
    self._type = np.dtype([('seconds', '<f8', (2,)), ('features', '<f4', row)])
    self._file = file.open('wb')
    head = {'descr': self._type.descr, 'fortran_order': False, 'shape': (rows,)}
    np.lib.format.write_array_header_1_0(self._file, head)

  def write(self, seconds: Float64[np.ndarray, 'n 2'], values: Float32[np.ndarray, 'n *d']) -> None:
    """Appends rows."""
    rows = np.empty(len(values), self._type)
    rows['seconds'], rows['features'] = seconds, values
    self._file.write(rows.tobytes())

  def close(self) -> None:
    """Finishes the file."""
    self._file.close()


class ParquetWriter:
  """Writes columns `start`, `end` and `features` (lists with their shape in the schema)."""

  def __init__(self, file: Path, row: tuple[int, ...]):
    """Creates a file; raises ConfigError if pyarrow is not installed."""
    pyarrow, parquet = import_parquet('--to=parquet', 'use --to=npy')
    self._pyarrow = pyarrow
    list_type = pyarrow.list_(pyarrow.float32(), int(np.prod(row)))
    fields = [('start', pyarrow.float64()), ('end', pyarrow.float64()), ('features', list_type)]
    self._schema = pyarrow.schema(fields, metadata={'shape': json.dumps(list(row))})
    self._file = file.open('wb')
    self._writer = parquet.ParquetWriter(self._file, self._schema)

  def write(self, seconds: Float64[np.ndarray, 'n 2'], values: Float32[np.ndarray, 'n *d']) -> None:
    """Appends rows as one group."""
    column = self._pyarrow.FixedSizeListArray.from_arrays(
      self._pyarrow.array(values.reshape(-1)), type=self._schema.field('features').type
    )
    arrays = [self._pyarrow.array(seconds[:, 0]), self._pyarrow.array(seconds[:, 1]), column]
    self._writer.write_table(self._pyarrow.table(arrays, schema=self._schema))

  def close(self) -> None:
    """Finishes the file."""
    try:
      self._writer.close()  # writes the table of contents
    finally:
      self._file.close()


class Store:
  """A folder of features with the same settings; a stopped command can be resumed.

  Attributes:
    index: index file with all videos and their results.
  """

  def __init__(self, folder: Path, kind: Format, settings: Mapping[str, Any]):
    """Creates the folder or opens an existing one.

    Raises:
      ConfigError: the folder has other content, or features with other settings.
    """
    if kind == 'parquet':
      import_parquet('--to=parquet', 'use --to=npy')
    self._folder, self._kind = folder, kind
    self.index = folder / INDEX
    self._check({**settings, 'format': kind})
    self._remove_unfinished()
    rows = self._read_index()
    self._done = {
      (r['path'], r['start'], r['end'])
      for r in rows
      if not r['error'] and (folder / r['file']).is_file()
    }
    kept = [r for r in rows if (r['path'], r['start'], r['end']) in self._done]
    self._write_index(kept)

  def _check(self, settings: Mapping[str, Any]) -> None:
    if self._folder.exists() and not self._folder.is_dir():
      raise ConfigError(f'--output={self._folder} is a file: give a folder')
    file = self._folder / SETTINGS
    if not file.exists():
      if self._folder.exists() and any(self._folder.iterdir()):
        raise ConfigError(f'--output={self._folder} has other files: give a new folder')
      write_json(file, settings)
      return
    try:
      found = json.loads(file.read_text())
    except ValueError:
      raise ConfigError(f'{file} is damaged: give a new folder') from None
    other = [name for name in settings if found.get(name) != settings[name]]
    if other:
      name = other[0]
      raise ConfigError(
        f'--output={self._folder} has features with {name}={found.get(name)!r}, not '
        f'{settings[name]!r}: give a new folder'
      )

  def _remove_unfinished(self) -> None:
    for file in self._folder.glob('.*.part'):
      file.unlink()

  def _read_index(self) -> list[dict[str, str]]:
    if not self.index.exists():
      return []
    text = self.index.read_text()
    whole = text[: text.rfind('\n') + 1]  # the last line may be incomplete after a kill
    rows = list(csv.DictReader(io.StringIO(whole)))
    return [row for row in rows if all(row.get(name) is not None for name in COLUMNS)]

  def _write_index(self, rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [[row[name] for name in COLUMNS] for row in rows]
    replace_file(self.index, as_csv([COLUMNS, *cells]))

  def has(self, video: Video) -> bool:
    """Returns whether a video is finished."""
    return _key(video) in self._done

  def note(self, video: Video, file: str = '', rows: int = 0, error: str = '') -> None:
    """Adds a line to the index."""
    path, start, end = _key(video)
    with naming(self.index), self.index.open('a', newline='') as handle:
      csv.writer(handle, lineterminator='\n').writerow([path, start, end, file, rows, error])

  @contextlib.contextmanager
  def file(self, video: Video, rows: int, row: tuple[int, ...]) -> Iterator[Writer]:
    """Yields a writer; its file is renamed and added to the index if there is no error."""
    key = _key(video)
    digest = hashlib.sha256('\0'.join([os.path.abspath(key[0]), *key[1:]]).encode()).hexdigest()
    target = self._folder / f'{Path(video.path).stem}-{digest[:10]}.{self._kind}'
    temporary = self._folder / f'.{digest[:10]}.part'
    try:
      with naming(target):
        npy = self._kind == 'npy'
        writer: Writer = NumpyWriter(temporary, rows, row) if npy else ParquetWriter(temporary, row)
        try:
          yield writer
        finally:
          writer.close()
        temporary.replace(target)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise
    self.note(video, target.name, rows)


def _key(video: Video) -> tuple[str, str, str]:
  """Returns the cells that identify a video in a manifest."""
  start, end = ('' if seconds is None else repr(seconds) for seconds in (video.start, video.end))
  return video.path, start, end


def write_all(
  extractor: Extractor, videos: Sequence[Video], store: Store, quiet: bool | None = None
) -> list[tuple[str, str]]:
  """Writes the features of all videos not yet in the store; unreadable videos are skipped.

  Args:
    extractor: computes the features.
    videos: files or spans of files.
    store: output folder.
    quiet: hide the progress bar; None = hide it unless standard error is a terminal.

  Returns:
    (path, reason) of unreadable videos.

  Raises:
    OSError: the disk is full or not writable.
  """
  missing = [video for video in videos if not store.has(video)]
  failed = []
  with tqdm(
    total=len(videos),
    initial=len(videos) - len(missing),
    unit='video',
    desc='features',
    disable=quiet,
  ) as bar:
    for video in missing:
      try:
        _write(extractor, video, store)
      except DecodeError as error:
        failed.append((video.path, error.reason))
      except UserError as error:  # e.g. the windows do not fit this video
        failed.append((video.path, str(error)))
      else:
        bar.update()
        continue
      store.note(video, error=failed[-1][1])
      bar.update()
  return failed


def _write(extractor: Extractor, video: Video, store: Store) -> None:
  with open_stream(video) as reader:
    windows = extractor.windows(reader)
    seconds = extractor.seconds(windows)
    with store.file(video, len(seconds), extractor.row) as writer:
      at = 0
      for values in extractor.stream(reader, windows):
        writer.write(seconds[at : at + len(values)], values)
        at += len(values)
