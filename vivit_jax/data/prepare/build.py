# SPDX-License-Identifier: Apache-2.0
"""Builds a folder of prepared videos; after a kill at any time, it resumes with little loss.

First, every video is checked and, if requested, cut and re-encoded into a work folder with a
journal. Then the shards are written together and read back. `prepared.json` is written last.
"""

import dataclasses
import functools
import hashlib
import json
import shutil
from pathlib import Path

from vivit_jax.data.failures import FILE as SKIPPED
from vivit_jax.data.prepare.encode import Encoding
from vivit_jax.data.prepare.samples import (
  Finished,
  Head,
  Listing,
  Reasons,
  finish_samples,
  read_source,
)
from vivit_jax.data.prepare.shards import FACTS, NAME, VERSION, WORK
from vivit_jax.data.tables import as_csv
from vivit_jax.errors import DataError
from vivit_jax.files import LockedError, locked, replace_file, write_json

FORM = 1  # version of the output format; a change requires a new build


def build(source: Path, target: Path, encoding: Encoding, max_bad_fraction: float) -> str:
  """Prepares the videos of a folder of manifests; called again after a kill, it resumes.

  Args:
    source: folder with train.csv etc. and classes/.
    target: output folder, for use as `config.data.root`.
    encoding: encoding of the videos.
    max_bad_fraction: maximum fraction of unreadable videos, which are left out.

  Returns:
    A one-line summary.

  Raises:
    DataError: a manifest is invalid, too many videos are unreadable, or the target has other
      content or is not writable.
  """
  wanted = read_source(source)
  key = {'form': FORM, 'source': wanted.fingerprint, **dataclasses.asdict(encoding)}
  if (target / FACTS).is_file():
    _same(target, json.loads((target / FACTS).read_text())['build'], key)
  else:
    _check_target(target)
    try:
      (target / WORK).mkdir(parents=True, exist_ok=True)
      with locked(target / WORK / 'lock', str(target)):
        plan = target / WORK / 'plan.json'
        if plan.exists():
          _same(target, json.loads(plan.read_text()), key)
        write_json(plan, key)
        _run(source, target, wanted, encoding, max_bad_fraction, key)
    except LockedError:
      raise DataError(f'{target} is being built by another process: wait for it') from None
    except OSError as error:
      raise DataError(
        f'{target} cannot be written: {error.strerror}; fix this and run the same command '
        'again, finished videos are kept'
      ) from error
  shutil.rmtree(target / WORK, ignore_errors=True)
  return _summary(target)


def _run(
  source: Path,
  target: Path,
  wanted: Listing,
  encoding: Encoding,
  max_bad_fraction: float,
  key: dict,
) -> None:
  # This import takes a second and is not needed if the target is complete.
  from vivit_jax.data.prepare import write_shards

  finished = Finished(target / WORK)
  skip = functools.partial(_write_skipped, target)
  failures = finish_samples(wanted.samples, encoding, finished, max_bad_fraction, skip)
  skip(failures)
  items: dict[str, list[write_shards.Item]] = {s.split: [] for s in wanted.samples}
  for sample in wanted.samples:
    if sample not in failures:
      items[sample.split].append((sample, finished.facts[sample.split, sample.index]))
  for split, rows in items.items():
    if not rows:
      raise DataError(f'no video of {source / split}.csv can be read; see {target / SKIPPED}')
  content = functools.partial(write_shards.stored_content, finished, encoding)
  write_shards.write_shards(target, wanted.heads, items, content)
  write_shards.verify(target, wanted.heads, items)

  (target / 'classes').mkdir(exist_ok=True)
  for head in wanted.heads:
    text = ''.join(f'{name}\n' for name in head.classes)
    replace_file(target / 'classes' / f'{head.name}.txt', text.encode())
  splits = {}
  for split, rows in items.items():
    manifest = _manifest(wanted.heads, rows)
    replace_file(target / f'{split}.csv', manifest)
    files = sorted((target / NAME / VERSION).glob(f'{NAME}-{split}.*'))
    splits[split] = {
      'videos': len(rows),
      'left_out': sum(sample.split == split for sample in failures),
      'bytes': sum(facts.size for _, facts in rows),
      'manifest': hashlib.sha256(manifest).hexdigest(),
      'shards': {file.name: file.stat().st_size for file in files},
    }
  write_json(target / FACTS, {'build': key, 'splits': splits})


def _manifest(heads: tuple[Head, ...], rows: list) -> bytes:
  """Returns the CSV manifest of a split, in the order of the records."""
  table: list[list] = [['path', *(head.name for head in heads), 'frames', 'fps', 'bytes', 'sha256']]
  for sample, facts in rows:
    known = (facts.frames, f'{facts.fps:.6g}', facts.size, facts.sha256)
    table.append([sample.name, *sample.cells(heads), *known])
  return as_csv(table)


def _write_skipped(target: Path, failures: Reasons) -> None:
  """Writes the list of videos left out, with reasons, in manifest order."""
  if not failures:
    (target / SKIPPED).unlink(missing_ok=True)
    return
  listed = sorted(failures, key=lambda sample: (sample.split, sample.index))
  rows = [(sample.name, failures[sample], sample.split) for sample in listed]
  replace_file(target / SKIPPED, as_csv([('path', 'reason', 'split'), *rows]))


def _check_target(target: Path) -> None:
  if target.exists() and not target.is_dir():
    raise DataError(f'{target} is a file: give a folder for the prepared videos')
  if target.is_dir() and not (target / WORK).is_dir() and any(target.iterdir()):
    raise DataError(f'{target} has other content: give a new folder for the prepared videos')


def _same(target: Path, found: dict, key: dict) -> None:
  """Raises DataError if an existing build has other videos or options."""
  differing = [name for name in key if found.get(name) != key[name]]
  if differing:
    what = ', '.join(f'{name}={found.get(name)}, now {key[name]}' for name in differing)
    raise DataError(f'{target} is a different build ({what}): give another target or delete it')


def _summary(target: Path) -> str:
  splits = json.loads((target / FACTS).read_text())['splits']
  parts = [f'{name} {facts["videos"]:,}' for name, facts in splits.items()]
  left_out = sum(facts['left_out'] for facts in splits.values())
  shards = sum(len(facts['shards']) for facts in splits.values())
  size = sum(facts['bytes'] for facts in splits.values())
  return f'{target}: {", ".join(parts)} videos, {size / 1e6:,.1f} MB in {shards} shards' + (
    f'; {left_out} unreadable left out, see {target / SKIPPED}' if left_out else ''
  )
