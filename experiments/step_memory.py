# SPDX-License-Identifier: Apache-2.0
"""Temporary memory of a training step by loop or scan, remat, accumulation and mesh."""

# Run from the repository root: python experiments/step_memory.py [--devices=8]
# Compiles only. The figures are those of the backend that it runs on: an accelerator's are others.

import argparse
import dataclasses
import os
import time

CHOICES = [(scan, remat) for scan in (False, True) for remat in ('none', 'block')]


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--attention', default='factorised_encoder')
  parser.add_argument('--batch', type=int, default=4, help='clips (default: %(default)s)')
  parser.add_argument('--devices', type=int, default=1, help='virtual ones of the CPU')
  parser.add_argument('--mesh', default='-1,1,1', help='data,fsdp,context (default: %(default)s)')
  parser.add_argument('--grad-accum-steps', type=int, default=1)
  options = parser.parse_args()
  flag = f'--xla_force_host_platform_device_count={options.devices}'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'
  import jax  # reads it once

  from markdown_table import markdown

  print(
    f'{jax.default_backend()}, B/16x2 {options.attention}, {options.batch} clips of 32x112x112, '
    f'mesh {options.mesh}, accumulate {options.grad_accum_steps}, float32\n'
  )
  lines = []
  for scan, remat in CHOICES:
    temporary, arguments, seconds = planned(options, scan, remat)
    name = f'{"scan" if scan else "loop"}, {"remat" if remat == "block" else "no remat"}'
    lines.append((name, f'{temporary / 1e6:,.0f}', f'{arguments / 1e6:,.0f}', f'{seconds:.0f}'))
  print(markdown(('', 'temporary MB', 'state and batch MB', 'compilation s'), lines))


def planned(options: argparse.Namespace, scan: bool, remat: str) -> tuple[int, int, float]:
  """Returns bytes of a device beside its arguments, those of the arguments, seconds to compile."""
  import jax
  import numpy as np

  from vivit_jax.config.schema import Clip, Config, Evaluate, Mesh, Model, Task, Train
  from vivit_jax.distributed.mesh import make_mesh
  from vivit_jax.model.vivit import build
  from vivit_jax.train.optimizer import make_optimizer
  from vivit_jax.train.state import abstract_state
  from vivit_jax.train.step import compile_step

  batch = options.batch
  config = Config(
    task=Task(classes=(400,)),
    model=Model(attention=options.attention, scan=scan, remat=remat),  # type: ignore[arg-type]
    clip=Clip(frames=32, height=112, width=112),
    train=Train(batch_size=batch, grad_accum_steps=options.grad_accum_steps),
    evaluate=Evaluate(batch_size=batch),
    mesh=Mesh(*map(int, options.mesh.split(','))),
  )
  if config.model.attention in ('factorised_self_attention', 'factorised_dot_product'):
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pooling='mean'))
  model, optimizer = build(config), make_optimizer(config.train, 1000)
  shapes = {
    'video': jax.ShapeDtypeStruct((batch, 32, 112, 112, 3), np.uint8),
    'label': jax.ShapeDtypeStruct((batch, 1), np.int32),
  }
  step = compile_step(config, model, optimizer, make_mesh(config))
  lowered = step.lower(abstract_state(config, model, optimizer), shapes)  # type: ignore[attr-defined]
  began = time.perf_counter()
  analysis = lowered.compile().memory_analysis()
  seconds = time.perf_counter() - began
  return analysis.temp_size_in_bytes, analysis.argument_size_in_bytes, seconds


if __name__ == '__main__':
  main()
