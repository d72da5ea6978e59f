# SPDX-License-Identifier: Apache-2.0
"""Predictions of many videos as one CSV or Parquet file with the probability of every class."""

import contextlib
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vivit_jax.config.schema import Task, head_slices
from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.predictions import class_names
from vivit_jax.files import replaced

KINDS = ('.csv', '.parquet')
ROWS = 256  # rows of a Parquet file that are buffered and written together


def import_parquet(what: str, instead: str) -> tuple[Any, Any]:
  """Returns pyarrow and pyarrow.parquet; raises ConfigError if they are not installed."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError:
    raise ConfigError(
      f'{what} needs pyarrow: pip install "vivit_jax[parquet]", or {instead}'
    ) from None
  return pyarrow, parquet


def check_target(file: Path, option: str) -> None:
  """Raises ConfigError if the file cannot be written; call before any video is read."""
  if file.suffix not in KINDS:
    raise ConfigError(f'{option}={file} has an unknown suffix: use {" or ".join(KINDS)}')
  if not file.parent.is_dir():
    raise ConfigError(f'{option}={file}: the folder {file.parent} does not exist')
  if file.exists():
    raise ConfigError(f'{option}={file} exists: give another file or delete it first')
  if file.suffix == '.parquet':
    import_parquet(f'{option}={file}', 'give a .csv file')


@runtime_checkable
class _Rows(Protocol):
  def write(self, row: Sequence[Any]) -> None:
    """Appends a row."""

  def close(self) -> None:
    """Finishes the file."""

  def abandon(self) -> None:
    """Closes an incomplete file, which is then deleted."""


class PredictionFile:
  """Writes one row per video: facts, the most probable class per head, and all probabilities.

  Columns are those of `facts`, then per head HEAD (the most probable class or tag) and HEAD:CLASS
  for each class (its probability; a sigmoid for multi_label). Equal class names get their class id
  appended.
  """

  def __init__(self, rows: _Rows, task: Task, names: Mapping[str, Sequence[str]], facts: int):
    self._rows, self._task, self._names, self._facts = rows, task, names, facts

  def write(self, facts: Sequence[Any], shares: Float[np.ndarray, ' c'] | None) -> None:
    """Appends a row; if the probabilities are None, their cells are empty."""
    assert len(facts) == self._facts
    row = list(facts)
    for head, part in head_slices(self._task).items():
      if shares is None:
        row += [None] * (1 + part.stop - part.start)
      else:
        own = shares[part]
        row += [self._names[head][int(own.argmax())], *map(float, own)]
    self._rows.write(row)


@contextlib.contextmanager
def prediction_file(
  file: Path, task: Task, labels: Sequence[str] | None, facts: Mapping[str, type]
) -> Iterator[PredictionFile]:
  """Yields a prediction file, which gets its final name only if the block ends without an error.

  Args:
    file: .csv or .parquet; replaced if it exists.
    task: the heads and their type.
    labels: class names of all heads in order, see `predictions.class_names`.
    facts: names and types of the first columns.

  Raises:
    ConfigError: pyarrow is not installed.
    OSError: the file cannot be written; the message names it, and the partial file is deleted.
  """
  names = class_names(task, labels)
  columns = dict(facts)
  for head, own in names.items():
    columns[head] = str
    for k, name in enumerate(own):
      again = own.index(name) != k
      columns[f'{head}:{name} {k}' if again else f'{head}:{name}'] = float
  with replaced(file) as temporary:
    kind = _Parquet if file.suffix == '.parquet' else _Csv
    rows = kind(temporary, columns)
    try:
      yield PredictionFile(rows, task, names, len(facts))
      rows.close()
    except BaseException:
      rows.abandon()
      raise


class _Csv:
  def __init__(self, file: Path, columns: Mapping[str, type]):
    self._file = file.open('w', newline='', encoding='utf-8')
    self._writer = csv.writer(self._file, lineterminator='\n')
    self._writer.writerow(columns)

  def write(self, row: Sequence[Any]) -> None:
    self._writer.writerow(f'{x:.6g}' if isinstance(x, float) else x for x in row)

  def close(self) -> None:
    self._file.close()

  def abandon(self) -> None:
    with contextlib.suppress(OSError):  # buffered rows do not fit either
      self._file.close()


class _Parquet:
  def __init__(self, file: Path, columns: Mapping[str, type]):
    self._arrow, parquet = import_parquet(str(file), 'give a .csv file')
    types = {
      str: self._arrow.string(), float: self._arrow.float64(), int: self._arrow.int64(),
    }  # fmt: skip
    self._schema = self._arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    self._file = file.open('wb')
    self._writer = parquet.ParquetWriter(self._file, self._schema)
    self._held: list[Sequence[Any]] = []

  def write(self, row: Sequence[Any]) -> None:
    self._held.append(row)
    if len(self._held) == ROWS:
      self._flush()

  def _flush(self) -> None:
    arrays = [
      self._arrow.array(column, type=field.type)
      for column, field in zip(zip(*self._held, strict=True), self._schema, strict=True)
    ]
    self._writer.write_table(self._arrow.table(arrays, schema=self._schema))
    self._held = []

  def close(self) -> None:
    if self._held:
      self._flush()
    self._writer.close()  # writes the table of contents
    self._file.close()

  def abandon(self) -> None:
    for part in (self._writer, self._file):
      with contextlib.suppress(OSError):
        part.close()
