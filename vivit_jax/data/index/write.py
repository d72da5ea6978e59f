# SPDX-License-Identifier: Apache-2.0
"""Writes an index as manifests and class files; does not overwrite files with different content.

`as_table` shows the contents of a data set by split, and what is missing.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from vivit_jax.data.index.annotations import Index, check, shared, tags
from vivit_jax.data.manifest import SPLITS
from vivit_jax.data.tables import as_csv
from vivit_jax.errors import DataError, and_more, printable
from vivit_jax.files import replace_file

MISSING = 'missing.csv'
LINK = 'videos'  # link to the videos, if they are outside of the output folder


def write(index: Index, folder: Path, output: Path, force: bool = False) -> None:
  """Writes train.csv, validation.csv, test.csv (those with videos), classes/ and missing.csv.

  Paths in manifests are relative to the manifest, so if `folder` is not inside `output`, a link to
  it is created there.

  Args:
    index: the data set; it is checked first.
    folder: folder to which the paths of the rows are relative.
    output: folder for the manifests; created if missing.
    force: whether to replace existing manifests and class files with different content.

  Raises:
    DataError: no video exists, a name cannot be written, or a file is in the way.
  """
  check(index)
  found = [row for row in index.rows if row.path is not None]
  if not found:
    row = index.rows[0]
    raise DataError(
      f'none of the {len(index.rows):,} annotated videos is in {folder}: {row.where} names '
      f'{row.wanted!r}'
    )
  prefix, link = _prefix(folder, output)
  files: dict[Path, bytes | None] = {
    output / 'classes' / f'{head}.txt': ('\n'.join(names) + '\n').encode()
    for head, names in index.classes.items()
  }
  header = ['path', 'start', 'end', *index.classes]
  for split in SPLITS:
    rows = [
      [f'{prefix}{row.path}', _seconds(row.start), _seconds(row.end), *row.names]
      for row in found
      if row.split == split
    ]
    files[output / f'{split}.csv'] = as_csv([header, *rows]) if rows else None
  missing = output / MISSING
  _refuse_to_lose([*files, missing], index.inputs)
  if not force:
    _refuse_to_replace(files)
  (output / 'classes' if index.classes else output).mkdir(parents=True, exist_ok=True)
  if link is not None and not link.is_symlink():
    link.symlink_to(folder.resolve(), target_is_directory=True)
  lost = [[row.split, row.wanted, row.where] for row in index.rows if row.path is None]
  files[missing] = as_csv([('split', 'video', 'annotation'), *lost]) if lost else None
  for file, content in files.items():
    if content is None:
      file.unlink(missing_ok=True)
    elif not file.exists() or file.read_bytes() != content:
      replace_file(file, content)


def _prefix(folder: Path, output: Path) -> tuple[str, Path | None]:
  """Returns the prefix for paths in `folder` relative to `output`, and the link if needed."""
  inside, place = folder.resolve(), output.resolve()
  if inside == place:
    return '', None
  if inside.is_relative_to(place):
    return f'{inside.relative_to(place).as_posix()}/', None
  link = output / LINK
  if (link.exists() or link.is_symlink()) and link.resolve() != inside:
    raise DataError(f'{link} is in the way of a link to {folder}: give another --output')
  return f'{LINK}/', link


def _refuse_to_lose(files: Iterable[Path], inputs: Iterable[Path]) -> None:
  sources = {file.resolve() for file in inputs}
  for file in files:
    if file.resolve() in sources:
      raise DataError(
        f'{file} is an annotation file and would be overwritten: move it into a folder of its own '
        'or give --output=FOLDER'
      )


def _refuse_to_replace(files: dict[Path, bytes | None]) -> None:
  differ = [file for file, text in files.items() if file.exists() and file.read_bytes() != text]
  if differ:
    more = f' (and {len(differ) - 1} more)' if len(differ) > 1 else ''
    raise DataError(
      f'{differ[0]} exists with different content{more}: replace it with --force, or give '
      'another --output=FOLDER'
    )


def _seconds(time: float | None) -> str:
  return '' if time is None else f'{time:.6f}'.rstrip('0').rstrip('.')


_SHOWN = 5


def as_table(index: Index) -> str:
  """Returns a table per split and head: videos, missing videos, classes, empty classes."""
  if not index.classes:
    counts = Counter(row.split for row in index.rows)
    lines = [f'{split:12}{counts[split]:10,} videos' for split in SPLITS if counts[split]]
    return '\n'.join(map(printable, [*lines, *index.notes]))
  head_width = max(map(len, index.classes))
  title = f'{"split":12}{"videos":>10}{"missing":>10}  {"head":{head_width}}{"classes":>10}'
  lines = [f'{title}  without a video']
  for split in SPLITS:
    rows = [row for row in index.rows if row.split == split]
    if not rows:
      continue
    found = [row for row in rows if row.path is not None]
    start = f'{split:12}{len(found):10,}{len(rows) - len(found):10,}'
    for i, (head, names) in enumerate(index.classes.items()):
      cells = (row.names[i] for row in found)
      seen = {name for cell in cells for name in (tags(cell) if index.multi_label else [cell])}
      empty = [name for name in names if name not in seen]
      without = f'{len(empty)}: {and_more(empty, _SHOWN)}' if empty else '-'
      lines.append(f'{start}  {head:{head_width}}{len(names):10,}  {without}')
      start = ' ' * 32
  return '\n'.join(map(printable, [*lines, *index.notes, *shared(index.rows)]))
