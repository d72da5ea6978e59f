# SPDX-License-Identifier: Apache-2.0
"""Something-Something v2: JSON files, and videos `<id>.webm`.

labels.json maps templates to class ids. Templates in train.json and validation.json have their
placeholders in brackets, "Holding [something] next to [something]"; those in labels.json do not.
The labels of the test set are in test-answers.csv, `<id>;<template>`, if the copy has it.
"""

import json
from pathlib import Path
from typing import Any

from vivit_jax.data.index.annotations import (
  Annotation,
  Index,
  found,
  in_order,
  locate,
  read_lines,
)
from vivit_jax.data.index.videos import VideoFiles
from vivit_jax.data.tables import read_text
from vivit_jax.errors import DataError

NEEDS = 'labels.json with train.json or validation.json'
_PREFIX = 'something-something-v2-'  # prefix of file names in earlier downloads


def find(folder: Path) -> bool:
  """Returns whether a folder or a direct subfolder has the labels and a split."""
  splits = ('train.json', 'validation.json')
  return any(
    (file.parent / file.name.replace('labels.json', split)).is_file()
    for file in found(folder, 'labels.json', f'{_PREFIX}labels.json')
    for split in splits
  )


def read(folder: Path, videos: VideoFiles) -> Index:
  """Returns the rows of the JSON files."""
  labels = locate(folder, 'labels.json', f'{_PREFIX}labels.json')
  classes = _classes(labels)
  inputs, rows, notes = [labels], [], []
  for split in ('train', 'validation'):
    file = labels.parent / labels.name.replace('labels.json', f'{split}.json')
    if file.is_file():
      inputs.append(file)
      rows += _read_split(file, split, videos)
  answers = labels.parent / labels.name.replace('labels.json', 'test-answers.csv')
  if answers.is_file():
    inputs.append(answers)
    rows += _read_answers(answers, videos)
  else:
    notes.append('test videos are left out: their labels (test-answers.csv) are missing')
  if not rows:
    raise DataError(f'{labels.parent} has neither train.json nor validation.json')
  return Index(tuple(rows), {'label': classes}, notes=tuple(notes), inputs=tuple(inputs))


def _classes(file: Path) -> tuple[str, ...]:
  labels = _load(file)
  if not isinstance(labels, dict) or not all(str(i).isdecimal() for i in labels.values()):
    raise DataError(f'{file} must map each template to its id, {{"Bending something": "3", ...}}')
  return in_order(file, {int(i): _plain(template) for template, i in labels.items()})


def _read_split(file: Path, split: str, videos: VideoFiles) -> list[Annotation]:
  entries = _load(file)
  if not isinstance(entries, list):
    raise DataError(f'{file} must be a list of videos, [{{"id": "1", "template": "..."}}, ...]')
  rows = []
  for number, entry in enumerate(entries, start=1):
    where = f'{file}: entry {number}'
    if not (isinstance(entry, dict) and {'id', 'template'} <= entry.keys()):
      raise DataError(f'{where} has no id or no template: {str(entry)[:80]}')
    rows.append(_row(where, split, str(entry['id']), str(entry['template']), videos))
  return rows


def _read_answers(file: Path, videos: VideoFiles) -> list[Annotation]:
  rows = []
  for where, line in read_lines(file):
    video, separator, template = line.partition(';')
    if not separator:
      raise DataError(f'{where} {line!r} is not <id>;<template>')
    rows.append(_row(where, 'test', video, template, videos))
  return rows


def _row(where: str, split: str, video: str, template: str, videos: VideoFiles) -> Annotation:
  return Annotation(
    split, videos.find(video.strip(), split), (_plain(template),), f'{video}.webm', where
  )


def _plain(template: str) -> str:
  return template.replace('[', '').replace(']', '').strip()


def _load(file: Path) -> Any:
  try:
    return json.loads(read_text(file))
  except json.JSONDecodeError as error:
    raise DataError(f'{file}:{error.lineno} is not valid JSON: {error.msg}') from None
