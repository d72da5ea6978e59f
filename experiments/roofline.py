# SPDX-License-Identifier: Apache-2.0
"""Roofline of the training step, compiled for an accelerator without having one."""

# Run from the repository root, with vivit_jax[plan] installed; no accelerator is needed:
#   python experiments/roofline.py --target=h100 --size=B --attention=factorised_encoder --batch=16
# docs/scale.md explains what the figures are worth.

import argparse
import dataclasses
import json
import os
import sys
import time

import jax

from vivit_jax.config.file import load
from vivit_jax.config.parse import check, parse, to_dict
from vivit_jax.config.schema import SIZES, Clip, Config, Evaluate, Mesh, Model, Task, Train
from vivit_jax.errors import ConfigError
from vivit_jax.plan.compile import ALONE
from vivit_jax.plan.targets import TARGETS, check_compiler


def main() -> None:
  """Prints the roofline of one step."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--target', choices=TARGETS, required=True)
  add('--devices', type=int, default=1, help='of which h100 may have any number (%(default)s)')
  add('--topology', help='instead of --devices, e.g. v5e:2x4')
  add('--mesh', default='-1,1,1', help='data,fsdp,context (%(default)s)')
  add('--size', choices=SIZES, default='B')
  add('--attention', default='factorised_encoder')
  add(
    '--config',
    help='instead of size, attention and clip: configs/videoprism.py:B,finetune; '
    'settings of it may follow: --config.masked.ratio=0.75',
  )
  add('--batch', type=int, default=16, help='clips of all devices (%(default)s)')
  add('--frames', type=int, default=32)
  add('--pixels', type=int, default=224, help='height and width (%(default)s)')
  add('--layers', type=int, help='instead of those of the size')
  add('--temporal-layers', type=int, help='4, and 24 for L')
  add('--dtype', default='bfloat16')
  add('--gradient-dtype', default=Model.gradient_dtype, help='of sums over devices (%(default)s)')
  add('--remat', default='auto')
  add('--scan', action='store_true')
  add('--attention-kernel', default='auto')
  add('--json', action='store_true')
  options, settings = parser.parse_known_args()
  if settings and not options.config:
    parser.error(f'{settings[0]}: only with --config')
  topology = options.topology or (
    f'h100:{options.devices}'
    if options.target == 'h100'
    else f'{options.target}:{TARGETS[options.target].smallest}'
  )
  os.environ |= ALONE
  jax.config.update('jax_platforms', ALONE['JAX_PLATFORMS'])  # JAX has read its variable
  try:
    check_compiler(topology)
    result = compiled(options, topology, experiment(options, settings))
  except (ConfigError, MemoryError) as error:
    sys.exit(f'roofline: {error}')
  if options.json:
    print(json.dumps(result, indent=1))
    return
  for name, value in result.items():
    if name == 'dearest':
      print('dearest kernels:')
      for row in value:
        scope = row['scope'].replace('jit(step)/', '')
        print(
          f'{row["milliseconds"]:9.3f} ms  {row["kind"]:28.28}{row["name"]:32.32} {scope[-90:]}'
        )
    else:
      print(f'{name:26}{value:,.2f}' if isinstance(value, float) else f'{name:26}{value}')


def experiment(options: argparse.Namespace, settings: list[str]) -> Config:
  """Returns the experiment that the options describe, checked."""
  if options.config:
    return of_recipe(options, settings)
  size = dataclasses.asdict(SIZES[options.size])
  if options.layers:
    size['layers'] = options.layers
  grid = options.attention in ('factorised_self_attention', 'factorised_dot_product')
  temporal = options.temporal_layers
  if grid and size['heads'] % 2:
    size['heads'] += 1  # half of them look along time
  model = Model(
    attention=options.attention,
    temporal_layers=temporal if temporal is not None else (24 if options.size == 'L' else 4),
    pooling='mean' if grid else 'cls',
    dtype=options.dtype,
    gradient_dtype=options.gradient_dtype,
    remat=options.remat,
    scan=options.scan,
    attention_kernel=options.attention_kernel,
    **size,
  )
  config = Config(
    task=Task(classes=(400,)),
    model=model,
    clip=Clip(frames=options.frames, height=options.pixels, width=options.pixels),
    train=Train(batch_size=options.batch),
    evaluate=Evaluate(batch_size=options.batch),
    mesh=Mesh(*map(int, options.mesh.split(','))),
  )
  return parse(to_dict(config))


def of_recipe(options: argparse.Namespace, settings: list[str]) -> Config:
  """Returns the experiment of a recipe and changes of it, run as the options say."""
  recipe = load([f'--config={options.config}', *settings])
  run = {
    name: getattr(options, name)
    for name in ('dtype', 'gradient_dtype', 'remat', 'scan', 'attention_kernel')
  }
  masked = recipe.task.kind == 'masked'
  config = Config(
    task=recipe.task if masked else Task(classes=(400,)),
    model=dataclasses.replace(recipe.model, **run),
    clip=recipe.clip,
    masked=recipe.masked,
    train=Train(batch_size=options.batch, freeze=recipe.train.freeze),
    evaluate=Evaluate(batch_size=options.batch),
    mesh=Mesh(*map(int, options.mesh.split(','))),
  )
  check(config)
  return config


def compiled(options: argparse.Namespace, topology: str, config: Config) -> dict:
  """Returns the figures of the step as JSON has them."""
  from vivit_jax.plan.compile import compile_step_for
  from vivit_jax.plan.roofline import roofline, useful_flops
  from vivit_jax.plan.targets import devices

  found = devices(topology)
  if not options.topology:
    found = found[: options.devices]
  start = time.monotonic()
  program = compile_step_for(config, found)
  took = time.monotonic() - start
  figures = roofline(
    program.as_text(),
    TARGETS[options.target],
    useful_flops(config),
    len(found),
    program.memory_analysis().temp_size_in_bytes,
  )
  return {'topology': topology, **dataclasses.asdict(figures), 'compiled_seconds': took}


if __name__ == '__main__':
  main()
