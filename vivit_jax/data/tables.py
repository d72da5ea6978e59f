# SPDX-License-Identifier: Apache-2.0
"""CSV files, with file and line of each row for one-line error messages."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from vivit_jax.data.storage import Folder, reading
from vivit_jax.errors import DataError, nearest

Cells = dict[str, str]  # cells by column name


class MissingFileError(DataError):
  """A text file that does not exist."""


def read_text(file: Folder) -> str:
  """Returns the content of a UTF-8 file, local or gs://.

  Raises:
    MissingFileError: the file does not exist.
    DataError: the file cannot be read or is not UTF-8.
  """
  try:
    with reading(file):
      return file.read_bytes().decode('utf-8-sig')
  except FileNotFoundError:
    raise MissingFileError(f'{file} does not exist') from None
  except UnicodeDecodeError as error:
    raise DataError(f'{file} is not UTF-8 text: byte {error.start}; save it as UTF-8') from None
  except OSError as error:
    raise DataError(f'{file} cannot be read: {error.strerror}') from None


def parse_table(
  file: Folder, text: str, required: Sequence[str] = (), columns: Sequence[str] = ()
) -> list[tuple[str, Cells]]:
  """Returns ('file:line', cells by column) for each non-empty row.

  Args:
    file: file name for messages.
    text: content of the file: CSV, with a header unless `columns` is given.
    required: columns that must exist; other columns are kept.
    columns: column names of a file without header; further cells are ignored.

  Raises:
    DataError: a column is missing or repeated, a row has a wrong length, or quotes are broken.
  """
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  try:
    rows = [(f'{file}:{reader.line_num}', cells) for cells in reader if cells]
  except csv.Error as error:
    raise DataError(f'{file}:{reader.line_num} is not valid CSV: {error}') from None
  header = list(columns)
  if not columns:
    header = [name.strip() for name in rows.pop(0)[1]] if rows else []
    for name in required:
      if name not in header:
        raise DataError(f'{file}:1 has no column {name!r}{nearest(name, header or required)}')
    named = [name for name in header if name]
    if len(set(named)) != len(named):
      raise DataError(f'{file}:1 has a column twice: {",".join(header)}; remove one of them')
  for where, cells in rows:
    if len(cells) < len(header) or (len(cells) > len(header) and not columns):
      raise DataError(
        f'{where} has {len(cells)} cells, need {len(header)} ({",".join(header)}): quote values '
        'that contain a comma'
      )
  return [(where, dict(zip(header, cells, strict=False))) for where, cells in rows]


def read_table(
  file: Folder, required: Sequence[str], columns: Sequence[str] = (), text: str | None = None
) -> list[tuple[str, Cells]]:
  """Returns the rows of a file that lists videos or classes; see `parse_table`.

  Args:
    file: file to read.
    required, columns: see `parse_table`.
    text: content of the file, if already read.

  Raises:
    DataError: see `read_text` and `parse_table`; or there are no rows.
  """
  table = parse_table(file, read_text(file) if text is None else text, required, columns)
  if not table:
    raise DataError(f'{file} lists no videos: give one row per video below the header')
  return table


def as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
  """Returns rows, with the header first, as the content of a CSV file."""
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(rows)
  return text.getvalue().encode()
