# SPDX-License-Identifier: Apache-2.0
"""Meshes over described TPU topologies: network neighbors, and devices of one host."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason="needs pip install 'vivit_jax[plan]'"
)

# libtpu starts once in a process, and writes to its terminal.
PROGRAM = """
import json
import sys

from jax.experimental import topologies

from vivit_jax.config.schema import Config, Evaluate, Mesh, Train
from vivit_jax.errors import ConfigError
from vivit_jax.distributed.mesh import make_mesh

topology, options, axes = json.loads(sys.argv[1])
devices = topologies.get_topology_desc(
  platform='tpu', topology_name=topology, **options
).devices
for mesh in axes:
  config = Config(
    mesh=Mesh(**mesh), train=Train(batch_size=256), evaluate=Evaluate(batch_size=256)
  )
  try:
    grid = make_mesh(config, list(devices)).devices
    print(json.dumps([
      grid.shape,
      [[getattr(d, 'slice_index', 0), d.process_index, *d.coords[:2]] for d in grid.reshape(-1)],
    ]))
  except ConfigError as error:
    print(json.dumps([str(error), []]))
"""


def meshes(topology, options, *axes):
  """Returns shape and (slice, host, x, y) of each device, or why not, for each choice of axes."""
  done = subprocess.run(
    [sys.executable, '-c', PROGRAM, json.dumps([topology, options, axes])],
    env={
      **os.environ,
      'PYTHONPATH': os.pathsep.join([str(Path(__file__).parent.parent.parent), *sys.path[1:]]),
      'TPU_SKIP_MDS_QUERY': '1',
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    },
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  return [json.loads(line) for line in done.stdout.splitlines()[-len(axes) :]]


def test_axes_follow_the_torus_and_a_clip_stays_on_its_host():
  (fsdp, grid), (context, shared), (refused, _) = meshes(
    'v5e:8x8', {}, {'fsdp': 8}, {'context': 4}, {'context': 8}
  )
  assert fsdp == [8, 8, 1]
  for start in range(0, 64, 8):  # a ring: one line of the torus
    assert len({y for _, _, _, y in grid[start : start + 8]}) == 1
  assert context == [16, 1, 4]
  for start in range(0, 64, 4):
    assert len({host for _, host, _, _ in shared[start : start + 4]}) == 1
  assert refused.startswith('config.mesh.context=8 would split a clip over the hosts [0, 1]')


def test_slices_lie_along_data():
  (data, grid), (_, shared), (refused, _) = meshes(
    'v5e:4x4', {'num_slices': 2}, {'fsdp': 8}, {'context': 4}, {'data': 1, 'fsdp': 32}
  )
  assert data == [4, 8, 1]
  for devices in (grid, shared):
    assert [part for part, *_ in devices] == [0] * 16 + [1] * 16
  assert refused.startswith('config.mesh.data=1 is not divisible by the 2 slices')
