# SPDX-License-Identifier: Apache-2.0
"""Two real processes of four devices each: every row is loaded once, and lies where it should."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

import jax
import numpy as np

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), cluster_detection_method='deactivate')

from jax.sharding import Mesh

from vivit_jax.config.schema import Config
from vivit_jax.config.schema import Mesh as Axes
from vivit_jax.distributed.mesh import AXES
from vivit_jax.errors import ConfigError
from vivit_jax.distributed.sharding import host_rows, local_rows, shard_batch, shard_state
from vivit_jax.distributed.mesh import make_mesh

video = np.arange(16 * 8, dtype=np.uint8).reshape(16, 8, 1, 1, 1)
batch = {'video': video, 'label': np.arange(16, dtype=np.int32)}
turns = np.array(jax.devices()).reshape(2, 4).T.reshape(8, 1, 1)  # hosts take turns, as on a torus
meshes = {
  'data': make_mesh(None),
  'fsdp': make_mesh(Config(mesh=Axes(data=1, fsdp=8))),
  'context': make_mesh(Config(mesh=Axes(data=1, fsdp=2, context=4))),
  'turns': Mesh(turns, AXES),
}
for name, mesh in meshes.items():
  rows = host_rows(mesh, 16)
  print(name, *rows)
  put = shard_batch(mesh, {key: whole[rows] for key, whole in batch.items()})
  for key, whole in batch.items():
    assert put[key].shape == whole.shape
    for shard in put[key].addressable_shards:
      np.testing.assert_array_equal(shard.data, whole[shard.index])
  np.testing.assert_array_equal(local_rows(put['label']), rows)
  kernel = np.arange(64, dtype=np.float32).reshape(16, 4)
  state = shard_state(mesh, {'head': {'kernel': kernel, 'bias': np.arange(3.0)}})
  for key, whole in (('kernel', kernel), ('bias', np.arange(3.0))):
    for shard in state['head'][key].addressable_shards:
      np.testing.assert_array_equal(shard.data, whole[shard.index])
  assert state['head']['kernel'].addressable_shards[0].data.shape[0] == 16 // mesh.shape['fsdp']
try:
  make_mesh(Config(mesh=Axes(data=1, context=8)))
except ConfigError as error:
  print(error)
"""


@pytest.mark.faults
def test_hosts_load_their_own_rows_on_any_mesh():
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  root = str(Path(__file__).parent.parent.parent)
  environment = {
    **os.environ,
    'PYTHONPATH': root,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
    'PJRT_NPROC': '16',
  }
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', PROGRAM, address, str(number)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=120) for process in processes]
  finally:
    for process in processes:
      process.kill()
  rows: dict[str, list[int]] = {}
  for process, (out, err) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, err
    *lines, refused = out.splitlines()
    for line in lines:
      name, *own = line.split()
      assert len(own) == 8
      rows.setdefault(name, []).extend(map(int, own))
    assert refused == (
      'config.mesh.context=8 would split a clip over the hosts [0, 1], but a host decodes whole '
      'clips: give a divisor of the number of devices per host'
    )
  assert rows.keys() == {'data', 'fsdp', 'context', 'turns'}
  assert all(sorted(own) == list(range(16)) for own in rows.values())
  assert rows['turns'][:4] == [0, 1, 4, 5]
