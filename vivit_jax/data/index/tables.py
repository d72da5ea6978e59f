# SPDX-License-Identifier: Apache-2.0
"""Annotation files: where they lie, their rows with file and line, times in their cells."""

import csv
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

from vivit_jax.config_parse import nearest
from vivit_jax.errors import DataError

Cells = dict[str, str]


def found(folder: Path, *names: str) -> list[Path]:
  """Returns the files of one of these names in a folder, else those in folders directly in it."""
  here = [folder / name for name in names if (folder / name).is_file()]
  below = [place / name for place in subfolders(folder) for name in names]
  return here[:1] or [file for file in below if file.is_file()]


def locate(folder: Path, *names: str) -> Path:
  """Returns the one file of one of these names in a folder, or in a folder directly in it.

  Raises:
    DataError: where none or two folders have it.
  """
  files = found(folder, *names)
  if not files:
    raise DataError(f'{folder} has no {names[0]}, nor has a folder directly in it')
  if len(files) > 1:
    raise DataError(f'{files[0]} and {files[1]}: say which folder with --annotations=FOLDER')
  return files[0]


def subfolders(folder: Path) -> list[Path]:
  """Returns the folders directly in a folder, without hidden ones, sorted."""
  return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def read_text(file: Path) -> str:
  """Returns the content of a UTF-8 file; raises DataError."""
  try:
    return file.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError as error:
    raise DataError(f'{file} is not UTF-8 text: byte {error.start}; save it as UTF-8') from None
  except OSError as error:
    raise DataError(f'{file} cannot be read: {error.strerror}') from None


def read_lines(file: Path) -> list[tuple[str, str]]:
  """Returns ('file:line', stripped line) for each line that is not empty."""
  lines = enumerate(read_text(file).splitlines(), start=1)
  return [(f'{file}:{number}', line.strip()) for number, line in lines if line.strip()]


def read_table(
  file: Path, required: Sequence[str], columns: Sequence[str] = ()
) -> list[tuple[str, Cells]]:
  """Returns ('file:line', cells by column) of a CSV file's rows.

  Args:
    file: CSV with a header, unless `columns` are given.
    required: columns that must be there; further ones are kept.
    columns: of a file without header; cells beyond them are left out.

  Raises:
    DataError: a missing column, a row of another length, broken quotes.
  """
  reader = csv.reader(read_text(file).splitlines(), strict=True)
  try:
    rows = list(_numbered(reader))
  except csv.Error as error:
    raise DataError(f'{file}:{reader.line_num} is not valid CSV: {error}') from None
  header = list(columns)
  if not columns:
    header = [name.strip() for name in rows.pop(0)[1]] if rows else []
    for name in required:
      if name not in header:
        raise DataError(f'{file}:1 has no column {name!r}{nearest(name, header or required)}')
  table = []
  for line, cells in rows:
    if len(cells) < len(header) or (len(cells) > len(header) and not columns):
      raise DataError(
        f'{file}:{line} has {len(cells)} cells, need {len(header)} ({",".join(header)}): quote '
        'values that contain a comma'
      )
    table.append((f'{file}:{line}', dict(zip(header, cells, strict=False))))
  if not table:
    raise DataError(f'{file} lists no videos')
  return table


def _numbered(reader) -> Iterator[tuple[int, list[str]]]:
  for cells in reader:
    if cells:
      yield reader.line_num, cells


def clock(where: str, name: str, cell: str) -> str:
  """Returns 'HH:MM:SS.ss' as decimal seconds, exactly; raises DataError."""
  try:
    hours, minutes, seconds = (Decimal(part) for part in cell.strip().split(':'))
    total = hours * 3600 + minutes * 60 + seconds
    if not (total.is_finite() and min(hours, minutes, seconds) >= 0):
      raise ValueError
  except (ValueError, InvalidOperation):
    raise DataError(f'{where} {name}={cell!r} is not a time: need HH:MM:SS.ss') from None
  return str(total)


def whole_number(where: str, name: str, cell: str) -> int:
  """Returns a number >= 0 in a cell; raises DataError."""
  if not cell.strip().isdecimal():
    raise DataError(f'{where} {name}={cell!r} is not a whole number >= 0')
  return int(cell)
