# SPDX-License-Identifier: Apache-2.0
"""Rows of a batch over devices: whole, in their order, and back."""

import mmap

import jax
import numpy as np
import pytest

from vivit_jax.config.schema import Config, Evaluate, Mesh, Train
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import (
  batch_sharding,
  host_rows,
  local_rows,
  replicated,
  shard_batch,
)
from vivit_jax.errors import ConfigError


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_rows_go_out_and_come_back_in_their_order(devices):
  mesh = make_mesh(None, jax.devices()[:devices])
  batch = {
    'video': np.arange(16 * 6, dtype=np.uint8).reshape(16, 2, 3),
    'label': np.arange(16, dtype=np.int32),
  }
  assert host_rows(mesh, 16) == list(range(16))
  put = shard_batch(mesh, batch)
  for name, rows in batch.items():
    assert put[name].dtype == rows.dtype
    assert put[name].sharding.is_equivalent_to(batch_sharding(mesh), rows.ndim)
    assert {shard.data.shape[0] for shard in put[name].addressable_shards} == {16 // devices}
    np.testing.assert_array_equal(local_rows(put[name]), rows)


def test_each_device_has_neighbouring_rows():
  mesh = make_mesh(None)
  put = shard_batch(mesh, np.arange(16))
  found = {shard.device.id: np.asarray(shard.data).tolist() for shard in put.addressable_shards}
  assert found == {k: [2 * k, 2 * k + 1] for k in range(8)}


def test_rows_go_to_the_devices_without_a_copy_on_the_host():
  rows = np.frombuffer(mmap.mmap(-1, 16 * 64 * 3 * 64), np.uint8).reshape(16, 2, 8, 4 * 64, 3)
  put = shard_batch(make_mesh(None), rows)
  for shard in put.addressable_shards:  # virtual devices look at the host's own memory
    first = rows[shard.index[0].start :].__array_interface__['data'][0]
    assert shard.data.unsafe_buffer_pointer() == first


def test_what_every_device_holds_comes_back_once():
  mesh = make_mesh(None)
  whole = jax.device_put(np.arange(5), replicated(mesh))
  np.testing.assert_array_equal(local_rows(whole), np.arange(5))


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (Config(train=Train(batch_size=12)), 'config.train.batch_size=12 is not divisible'),
    (Config(evaluate=Evaluate(batch_size=4)), 'config.evaluate.batch_size=4 leaves some of the 8'),
    (Config(mesh=Mesh(data=4)), 'a mesh of 4 devices, but there are 8'),
  ],
)
def test_an_experiment_that_does_not_fit_the_devices(config, message):
  with pytest.raises(ConfigError) as error:
    make_mesh(config)
  assert message in str(error.value)


def test_no_device_is_one_line(monkeypatch):
  def devices():
    raise RuntimeError("Unknown backend: 'cuda'\nrequested, but no platforms are present.")

  monkeypatch.setattr(jax, 'devices', devices)
  with pytest.raises(ConfigError, match=r"^JAX finds no device: Unknown backend: 'cuda' requested"):
    make_mesh(None)
