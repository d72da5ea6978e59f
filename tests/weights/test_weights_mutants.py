# SPDX-License-Identifier: Apache-2.0
"""Damaged files of every format: CheckpointError or a complete model, soon and in little memory."""

import json
import shutil
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError
from vivit_jax.weights import export, huggingface
from vivit_jax.weights.load import load_source
from vivit_jax.weights.readers import open_checkpoint
from vivit_jax.weights.source import shapes

REFERENCE = Path(__file__).parent.parent / 'reference'
MUTANTS = 100
TRACED = 10  # memory of every tenth is measured, which makes it ten times slower
SECONDS = 5.0  # for one file; the slowest takes 0.6
MEGABYTES = 64  # for files of 0.3 to 0.5
FORMATS = ('msgpack', 'npz', 'safetensors', 'own export')


def original(kind, folder):
  """Copies an intact checkpoint and what must lie beside it; returns the file and its hints."""
  if kind == 'msgpack':
    shutil.copy(REFERENCE / 'scenic/factorised_encoder_cls.json', folder / 'x.json')
    return REFERENCE / 'scenic/factorised_encoder_cls.msgpack', CheckpointFacts()
  if kind == 'npz':
    return REFERENCE / 'augreg/vit.npz', CheckpointFacts()
  shutil.copy(REFERENCE / 'huggingface/vivit/config.json', folder)
  path = REFERENCE / 'huggingface/vivit/model.safetensors'
  if kind == 'safetensors':
    return path, CheckpointFacts()
  export.write(load_source(path), folder / 'intact')
  return folder / 'intact', CheckpointFacts()


def mutate(data, rng):
  """Returns a damaged copy; half of all damage is where headers and tables of contents are."""
  data = bytearray(data)
  edge = min(len(data), 8192)
  at = int(
    rng.choice([rng.integers(len(data)), rng.integers(edge), len(data) - 1 - rng.integers(edge)])
  )
  match rng.integers(6):
    case 0:  # cut off
      return bytes(data[:at])
    case 1:  # some flipped bits
      for _ in range(int(rng.integers(1, 9))):
        data[min(at + int(rng.integers(64)), len(data) - 1)] ^= 1 << int(rng.integers(8))
    case 2:  # a page of zeros
      data[at : at + 512] = bytes(len(data[at : at + 512]))
    case 3:  # a length that is a lie: 2 to 8 bytes, little or big, somewhere or in the front
      size = int(rng.choice([2, 4, 8]))
      value = int(rng.choice([2**63, 2**32 - 1, 2**31, 2**16, len(data), 1])) % 2 ** (8 * size)
      at = at if rng.integers(2) else 0
      data[at : at + size] = value.to_bytes(size, rng.choice(['little', 'big']))
    case 4:  # a piece twice, or a piece missing
      data[at:at] = data[at : at + int(rng.integers(1, 2000))] if rng.integers(2) else b''
      del data[at : at + int(rng.integers(2000))]
    case 5:  # noise
      noise = rng.integers(256, size=int(rng.integers(1, 200)), dtype=np.uint8).tobytes()
      data[at : at + len(noise)] = noise
  return bytes(data)


def survey(kind, folder, mutants, seed=0):
  """Returns counts by outcome, the longest time in s and the highest memory in MB."""
  path, hints = original(kind, folder)
  intact, rng = path.read_bytes(), np.random.default_rng(seed)
  victim = folder / 'x.msgpack' if kind == 'msgpack' else folder / 'x'
  outcomes, slowest, highest = Counter(), 0.0, 0.0
  for i in range(mutants):
    victim.write_bytes(mutate(intact, rng))
    if i % TRACED == 0:
      tracemalloc.start()
    start = time.perf_counter()
    try:
      source = load_source(victim, hints)
    except CheckpointError as error:
      outcomes[error.reason] += 1
    else:
      expected = shapes(source.model, source.grid, source.classes)
      assert {name: array.shape for name, array in source.params.items()} == expected
      assert all(np.isfinite(array).all() for array in source.params.values())
      outcomes['loaded'] += 1
    slowest = max(slowest, time.perf_counter() - start)
    if i % TRACED == 0:
      highest = max(highest, tracemalloc.get_traced_memory()[1] / 2**20)
      tracemalloc.stop()
  assert not any('\n' in reason for reason in outcomes)
  return outcomes, slowest, highest


@pytest.mark.parametrize('kind', FORMATS)
def test_mutants(kind, tmp_path):
  outcomes, slowest, highest = survey(kind, tmp_path, MUTANTS)
  print(f'{kind}: {outcomes["loaded"]} of {MUTANTS} loaded, {slowest:.2f} s, {highest:.1f} MB')
  assert 0 < outcomes['loaded'] < MUTANTS
  assert slowest < SECONDS
  assert highest < MEGABYTES


WRONG = (None, 'x', '', -1, 0, 3, 0.5, 1e300, 10**30, True, [], [1], [1, 2], {}, {'a': 1}, [[]])


def damaged(tree):
  """Yields the tree with one value after the other replaced by each wrong one, or gone."""
  for key, value in tree.items():
    yield {k: v for k, v in tree.items() if k != key}
    for wrong in WRONG:
      yield tree | {key: wrong}
    if isinstance(value, dict):
      for inner in damaged(value):
        yield tree | {key: inner}


def some(trees):
  """A fixed choice of the damaged trees; all of them take a minute."""
  trees = list(trees)
  return [trees[i] for i in np.random.default_rng(0).permutation(len(trees))[:MUTANTS]]


def loads(path, hints=None):
  """Whether a path loads; anything but success and a CheckpointError fails the test."""
  try:
    load_source(path, hints)
  except CheckpointError as error:
    assert '\n' not in error.reason  # noqa: PT017
    return False
  return True


def test_damaged_scenic_side_car(tmp_path):
  path = shutil.copy(REFERENCE / 'scenic/factorised_self_attention_time_space.msgpack', tmp_path)
  side_car = Path(path).with_suffix('.json')
  config = json.loads((REFERENCE / f'scenic/{side_car.name}').read_text())
  config['dataset_configs'] = {
    'num_frames': 8, 'stride': 4, 'crop_size': 32, 'min_resize': 40, 'zero_centering': True,
    'class_splits': [5, 2], 'split_names': ['noun', 'verb'],
  }  # fmt: skip
  outcomes = []
  for tree in some(damaged(config)):
    side_car.write_text(json.dumps(tree))
    outcomes.append(loads(path))
  assert 0 < sum(outcomes) < len(outcomes)


def test_damaged_huggingface_config(tmp_path):
  source = load_source(REFERENCE / 'huggingface/vivit')
  huggingface.write(source, tmp_path)
  outcomes = []
  for name in ('config.json', 'preprocessor_config.json'):
    intact = (tmp_path / name).read_text()
    for tree in some(damaged(json.loads(intact))):
      (tmp_path / name).write_text(json.dumps(tree))
      outcomes.append(loads(tmp_path, CheckpointFacts(value_range='processor')))
    (tmp_path / name).write_text(intact)
  assert 0 < sum(outcomes) < len(outcomes)


def test_damaged_metadata_of_our_export(tmp_path):
  source = load_source(REFERENCE / 'huggingface/vivit')
  export.write(source, tmp_path / 'x')
  checkpoint = open_checkpoint(tmp_path / 'x')
  tensors = checkpoint.load(checkpoint.entries)
  outcomes = []
  for tree in some(damaged(json.loads(checkpoint.metadata[export.KEY]))):
    save_file(tensors, tmp_path / 'x', {export.KEY: json.dumps(tree)})
    outcomes.append(loads(tmp_path / 'x'))
  assert 0 < sum(outcomes) < len(outcomes)
