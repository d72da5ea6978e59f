# SPDX-License-Identifier: Apache-2.0
"""Collectives of a training step compiled for TPUs, compared with the minimum possible."""

# Run from the repository root, with vivit_jax[plan] installed; no TPU is needed:
#   python experiments/collectives.py --config=configs/kinetics400.py:B/16x2,factorised_encoder

import os

os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}

import dataclasses
import sys
import time

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh

from vivit_jax.config.file import load
from vivit_jax.config.schema import Config, Mesh
from vivit_jax.distributed.mesh import AXES, make_mesh
from vivit_jax.plan.memory import abstract_training, bytes_per_device, lower_step
from vivit_jax.plan.program import COLLECTIVES, Program
from vivit_jax.plan.roofline import SMALL

TOPOLOGIES = {'v5e:2x4': 8, 'v5e:16x16': 256}
MESHES = {'data': Mesh(), 'fsdp': Mesh(data=1, fsdp=-1)}


def main() -> None:
  """Prints the table."""
  config = load(sys.argv[1:])
  print(f'{"devices":>7} {"mesh":6}{"kind":20}{"number":>7}{"MB":>9}{"largest MB":>12}', flush=True)
  for topology, devices in TOPOLOGIES.items():
    tpus = list(topologies.get_topology_desc(platform='tpu', topology_name=topology).devices)
    for name, mesh in MESHES.items():
      one_clip = dataclasses.replace(
        config,
        mesh=mesh,
        train=dataclasses.replace(config.train, batch_size=devices),
        evaluate=dataclasses.replace(config.evaluate, batch_size=devices),
      )
      start = time.monotonic()
      program = lower_step(one_clip, make_mesh(one_clip, tpus)).compile().as_text()
      found = Program(program).collectives()
      for kind in COLLECTIVES:
        sizes = [(size, times) for other, size, times in found if other == kind and size >= SMALL]
        if sizes:
          number, total = sum(n for _, n in sizes), sum(size * n for size, n in sizes)
          largest = max(sizes)[0]
          print(f'{devices:7} {name:6}{kind:20}{number:7}{total / 1e6:9.1f}{largest / 1e6:12.1f}')
      seconds = time.monotonic() - start
      print(f'{"":14}{least(one_clip, mesh, devices)}; compiled in {seconds:.0f} s', flush=True)


def least(config: Config, mesh: Mesh, devices: int) -> str:
  """Returns in words what there has to be, in float32 and without remat."""
  params = abstract_training(config)[2].params
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
  if mesh.fsdp == 1:
    return f'least: all-reduce {size / 1e6:.1f} MB of gradients'
  whole = AbstractMesh((1, devices, 1), AXES)
  parts = (size - bytes_per_device(whole, params)) * devices / (devices - 1)
  return (
    f'least: all-gather {parts / 1e6:.1f} MB of parameters, reduce-scatter as much of gradients, '
    f'all-reduce {(size - parts) / 1e6:.1f} MB'
  )


if __name__ == '__main__':
  main()
