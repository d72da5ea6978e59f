# SPDX-License-Identifier: Apache-2.0
"""Invalid or hostile checkpoint files give a one-line error with file and reason."""

import hashlib
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import pytest
import safetensors.numpy

from vivit_jax.errors import CheckpointError, UserError
from vivit_jax.weights.load import load_source
from vivit_jax.weights.readers import open_checkpoint

REFERENCE = Path(__file__).parent.parent / 'reference'
VIVIT = REFERENCE / 'huggingface/vivit'


def read_all(path, **arguments):
  checkpoint = open_checkpoint(path, **arguments)
  return checkpoint.load(checkpoint.entries)


def reason(path, **arguments):
  with pytest.raises(CheckpointError) as error:
    read_all(path, **arguments)
  assert isinstance(error.value, UserError)
  assert str(error.value).startswith(str(path)[:10])
  assert '\n' not in str(error.value)
  return error.value.reason


def written(path, data):
  path.write_bytes(data)
  return path


def header(tree, body=b''):
  text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
  return len(text).to_bytes(8, 'little') + text + body


def tensor(dtype='F32', shape=(2,), offsets=(0, 8)):
  return {'a': {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}}


# Two tensors of one name, of which the library reads the second.
TENSOR = json.dumps(tensor()).encode()[1:-1]
TWICE = header(b'{' + TENSOR + b', ' + TENSOR + b'}', bytes(8))


def split_in_two(folder):
  """The Hugging Face folder as two shards with an index."""
  tensors = safetensors.numpy.load_file(VIVIT / 'model.safetensors')
  shutil.copy(VIVIT / 'config.json', folder)
  names = sorted(tensors)
  weight_map = {}
  for i, part in enumerate((names[:20], names[20:])):
    file = f'model-0000{i + 1}-of-00002.safetensors'
    safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file)
    weight_map |= dict.fromkeys(part, file)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
  return index, weight_map


def test_shards(tmp_path):
  split_in_two(tmp_path)
  found, expected = load_source(tmp_path), load_source(VIVIT)
  assert all(np.array_equal(found.params[n], expected.params[n]) for n in expected.params)


def test_shards_that_do_not_agree(tmp_path):
  index, weight_map = split_in_two(tmp_path)
  assert 'at most 1000 allowed' in reason(tmp_path, max_bytes=1000)
  assert 'sha256 is for a single file' in reason(tmp_path, sha256=digest(index))
  index.write_text(json.dumps({'weight_map': weight_map | {'a': '../../etc/passwd'}}))
  assert reason(tmp_path) == "names a shard outside its folder: '../../etc/passwd'"
  index.write_text(json.dumps({'weight_map': weight_map | {'a': 'b.safetensors'}}))
  assert reason(tmp_path) == 'does not exist'
  weight_map.pop('classifier.bias')
  index.write_text(json.dumps({'weight_map': weight_map}))
  assert reason(tmp_path) == (
    "has other tensors than listed in model.safetensors.index.json: 'classifier.bias'"
  )


def digest(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digest():
  path = VIVIT / 'model.safetensors'
  assert open_checkpoint(path, sha256=digest(path).upper()).entries
  assert reason(path, sha256='0' * 64) == f'has SHA-256 {digest(path)}, expected {"0" * 64}'


def test_bfloat16_is_widened_exactly(tmp_path):
  values = np.array([1.0, -2.5, 3.140625], ml_dtypes.bfloat16)
  data = header(tensor('BF16', (3,), (0, 6)), values.tobytes())
  found = open_checkpoint(written(tmp_path / 'x', data)).load(['a'])['a']
  assert np.array_equal(found, values.astype(np.float32))


def test_what_is_no_checkpoint(tmp_path):
  assert reason(tmp_path / 'none') == 'does not exist'
  assert reason(tmp_path).startswith('has none of model.safetensors, ')
  assert (
    reason(written(tmp_path / 'x', b'')) == 'is neither safetensors, npz nor msgpack, or is damaged'
  )
  assert 'run `git lfs pull`' in reason(written(tmp_path / 'x', b'version https://git-lfs.github'))
  assert 'is a web page' in reason(written(tmp_path / 'x', b'<!DOCTYPE html>'))
  assert 'no weight_map' in reason(written(tmp_path / 'x', b'{"a": 1}'))
  assert 'at most 10 allowed' in reason(VIVIT / 'model.safetensors', max_bytes=10)
  os.mkfifo(tmp_path / 'pipe')
  assert reason(tmp_path / 'pipe') == 'is not a regular file'


def test_pickle_is_refused_with_the_way_out(tmp_path):
  for protocol in (2, 5):
    path = written(tmp_path / 'x.npz', pickle.dumps({'a': 1}, protocol))
    assert 'weights_only=True' in reason(path)
  with zipfile.ZipFile(tmp_path / 'model', 'w') as archive:
    archive.writestr('archive/data.pkl', b'')
  assert 'weights_only=True' in reason(tmp_path / 'model')
  (tmp_path / 'folder').mkdir()
  written(tmp_path / 'folder/pytorch_model.bin', b'')
  assert reason(tmp_path / 'folder').startswith("holds only pickled weights: 'pytorch_model.bin'")
  np.savez(tmp_path / 'x.npz', a=np.array([{}, {}], object))
  assert 'is not a plain array of numbers' in reason(tmp_path / 'x.npz')


@pytest.mark.parametrize(
  'data, expected',
  [
    ((2**62).to_bytes(8, 'little') + b'{', 'header claims 4611686018427387904 bytes'),
    ((2).to_bytes(8, 'little') + b'{]', 'invalid JSON in header'),
    ((100_000).to_bytes(8, 'little') + b'{"a":' + b'[' * 99_995, 'recursion limit exceeded'),
    (header(tensor(offsets=(0, 4)), bytes(4)), 'invalid shape, data type, or offset'),
    (header(tensor(shape=(2**40, 2**40)), bytes(8)), 'overflow computing buffer size'),
    (header(tensor(shape=(-2,), offsets=(0, 8)), bytes(8)), 'invalid value: integer `-2`'),
    (header(tensor(offsets=(4, 12)), bytes(12)), 'invalid offset for tensor `a`'),
    (header(tensor(), bytes(9)), 'file not fully covered'),
    (header(tensor('F8_E4M3', (8,)), bytes(8)), "has type 'F8_E4M3'"),
    (header(tensor('I64', (1,)), bytes(8)), 'a has type int64, need one of'),
    (header(tensor(shape=(0,), offsets=(0, 0))), 'a of shape (0,) has no elements'),
    (header(tensor(), b'\xff' * 8), 'a contains non-finite values'),
    (header({'a': [1], '__metadata__': {}}), 'invalid JSON in header'),
    (header({'x' * 600: tensor()['a']}, bytes(8)), 'a name of 600 characters'),
    (header(tensor(shape=(1,) * 8 + (2,)), bytes(8)), "'a' has the invalid shape"),
    (TWICE, 'a key appears twice'),
  ],
)
def test_hostile_safetensors(data, expected, tmp_path):
  assert expected in reason(written(tmp_path / 'x', data))


def packed(value):
  return msgpack.packb(value, strict_types=True)


def array(shape=(2,), dtype='float32', data=bytes(8)):
  return msgpack.ExtType(1, packed([list(shape), dtype, data]))


@pytest.mark.parametrize(
  'data, expected',
  [
    (packed({'a': array()})[:-1], 'incomplete input'),
    (packed({'a': array()}) + b'\0', 'received extra data'),
    (packed({'a': msgpack.ExtType(7, b'x')}), 'extension type 7 is not one of flax'),
    (packed({'a': array(shape=(3,))}), 'needs 12 bytes, but the file has 8'),
    (packed({'a': array(dtype='object')}), "has type 'object'"),
    (packed({'a': array(shape=(1,) * 9)}), "'a' has the invalid shape"),
    (packed({'x' * 600: 1}), 'is longer than 512'),
    (b'\xdf\xff\xff\xff\xff\xa1a\xc0', '4294967295 exceeds max_map_len'),
    (b'\x81\xa1a\xdd\xff\xff\xff\xff' + b'\xc0' * 400_000, '4294967295 exceeds max_array_len'),
    (packed({str(i): [0] * 999 for i in range(400)}), 'more than 300000 objects'),
    (packed({'a': {'b': array()}, 'a/b': array()}), "'a/b' appears twice"),
    (packed({'a': msgpack.ExtType(1, packed([2, 'float32', b'']))}), 'is not (shape, type, bytes)'),
    (b'\x81\xa1a' * 100 + b'\xc0', 'deeper than 32 keys'),
    (b'\x82\xa1a\xc0\xa1a\xc0', 'a key appears twice'),
    (b'\x81\xa1\xff\xc0', "'utf-8' codec can't decode"),
    (b'\x81\xc1\xc0', 'not a valid msgpack file: FormatError'),
  ],
)
def test_hostile_msgpack(data, expected, tmp_path):
  assert expected in reason(written(tmp_path / 'x', data))


def test_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
  np.savez_compressed(tmp_path / 'x.npz', a=np.zeros(10_000_000, np.float32))
  assert (tmp_path / 'x.npz').stat().st_size < 10**5
  assert reason(tmp_path / 'x.npz').startswith('unpacks to 40000128 bytes, at most ')


def test_npz_that_lies(tmp_path):
  with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
    archive.writestr('a.txt', b'hello')
  assert reason(tmp_path / 'x.npz') == "an archive without arrays or with others: 'a.txt'"
  with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
    archive.writestr(
      'a.npy', b'\x93NUMPY\x01\x00\x40\x00' + b"{'descr': __import__('os')".ljust(64)
    )
  assert 'not a valid npz file' in reason(tmp_path / 'x.npz')


def test_fortran_order_and_compression(tmp_path):
  held = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4))
  np.savez_compressed(tmp_path / 'x.npz', a=held)
  found = open_checkpoint(tmp_path / 'x.npz').load(['a'])['a']
  assert np.array_equal(found, held)


def test_foreign_parameters(tmp_path):
  np.savez(tmp_path / 'x.npz', weight=np.ones(3, np.float32))
  with pytest.raises(CheckpointError, match='has no supported vision transformer'):
    load_source(tmp_path / 'x.npz')
