# SPDX-License-Identifier: Apache-2.0
"""What devices send each other in a training step: compiled for TPUs, beside the least possible."""

# Run from the repository root, with vivit_jax[plan] installed; no TPU is needed:
#   python experiments/collectives.py --config=configs/kinetics400.py:B/16x2,factorised_encoder

import os

os.environ |= {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}

import dataclasses
import re
import sys
import time

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh

from vivit_jax.config.file import load
from vivit_jax.config.schema import Config, Mesh
from vivit_jax.distributed.mesh import AXES, make_mesh
from vivit_jax.plan.memory import abstract_training, bytes_per_device, lower_step

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
SMALL = 2**16  # bytes: losses, norms and metrics
TOPOLOGIES = {'v5e:2x4': 8, 'v5e:16x16': 256}
MESHES = {'data': Mesh(), 'fsdp': Mesh(data=1, fsdp=-1)}


def collectives(program: str) -> list[tuple[str, int, int]]:
  """Returns (kind, bytes of the whole array, times per step) of a compiled program's text.

  What overlaps with computation counts once, where it starts.
  """
  times = {
    body: int(count)
    for body, count in re.findall(r'body=%?([\w.-]+).*?known_trip_count":{"n":"(\d+)"', program)
  }
  found = []
  computation = ''
  for line in program.splitlines():
    if header := re.match(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$', line):
      computation = header[1]
    match = re.search(rf' = (.+?) ({"|".join(KINDS)})(-start)?\(', line)
    if match is None:
      continue
    sizes = [array_bytes(*array) for array in re.findall(r'(\w+)\[([\d,]*)\]', match[1])]
    # One that only starts has its operand in the result too.
    size = max(sizes) if match[3] else sum(sizes)
    # TPUs scatter in a fusion that has its name from it.
    kind = 'reduce-scatter' if 'scatter' in computation else match[2]
    found.append((kind, size, times.get(computation, 1)))
  return found


def array_bytes(kind: str, shape: str) -> int:
  """Returns the bytes of an array as its type is written in HLO."""
  size = BYTES.get(kind, 0)
  for length in filter(None, shape.split(',')):
    size *= int(length)
  return size


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
      found = collectives(program)
      for kind in KINDS:
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
