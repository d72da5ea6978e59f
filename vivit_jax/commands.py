# SPDX-License-Identifier: Apache-2.0
"""What each subcommand of `vivit` does; libraries are imported late, so that --help is quick."""

import argparse
import re
import signal
import sys
from pathlib import Path

from vivit_jax.config import Faults
from vivit_jax.errors import ConfigError, printable


def train(options: argparse.Namespace) -> int:
  """Runs `vivit train`."""
  from flax.traverse_util import flatten_dict

  from vivit_jax.compiled_programs import keep_compiled_programs
  from vivit_jax.config_file import load
  from vivit_jax.config_parse import to_dict
  from vivit_jax.hosts.cluster import agree
  from vivit_jax.hosts.code import versions
  from vivit_jax.hosts.launch import start
  from vivit_jax.train.loop import train
  from vivit_jax.train.overfit import overfit_one_batch
  from vivit_jax.train.profile import parse_steps
  from vivit_jax.train.stop import Stopped

  config = load(options.settings)
  profile = parse_steps(options.profile) if options.profile is not None else None
  start(options, config.faults.heartbeat_seconds)
  keep_compiled_programs()
  agree({**versions(), **flatten_dict({'config': to_dict(config)}, sep='.')})
  if options.overfit_one_batch:
    return 0 if overfit_one_batch(config) else 1
  try:
    train(
      config,
      Path(options.workdir),
      allow_changes=options.allow_changes,
      profile=profile,
      ends_process=True,
    )
  except Stopped as stopped:
    print(f'vivit: {stopped}', file=sys.stderr if stopped.by == signal.SIGPIPE else sys.stdout)
    return stopped.code
  return 0


def evaluate(options: argparse.Namespace) -> int:
  """Runs `vivit evaluate`."""
  from vivit_jax.compiled_programs import keep_compiled_programs
  from vivit_jax.hosts.cluster import agree
  from vivit_jax.hosts.code import versions
  from vivit_jax.hosts.launch import start
  from vivit_jax.train.evaluation import evaluate_run

  views = parse_views(options.views) if options.views else None
  start(options, Faults().heartbeat_seconds)  # before the run's own can be read
  keep_compiled_programs()
  names = ('step', 'views', 'split', 'output')
  agree(versions() | {f'--{name}': getattr(options, name) for name in names})
  evaluate_run(
    Path(options.workdir),
    step=options.step,
    split=options.split,
    views=views,
    output=Path(options.output) if options.output else None,
  )
  return 0


def inspect(options: argparse.Namespace) -> int:
  """Runs `vivit inspect`, of a configuration or of a checkpoint."""
  _use_cpu()
  from vivit_jax.config_file import load
  from vivit_jax.data.dataset import with_classes
  from vivit_jax.summary import as_json, as_text, summarise, summarise_checkpoint

  if bool(options.checkpoint) == bool(options.settings):
    raise ConfigError('give either --config=FILE or a CHECKPOINT to inspect')
  if options.checkpoint and options.devices is not None:
    raise ConfigError(f'--devices={options.devices} goes with --config=FILE, which has the mesh')
  if options.checkpoint:
    from vivit_jax.pretrained import load_pretrained

    summary = summarise_checkpoint(load_pretrained(options.checkpoint, **options.hints).source)
  else:
    config = load(options.settings)
    if config.data.root is not None or config.data.source != 'manifests':
      config = with_classes(config)  # without data they stay unknown
    summary = summarise(config, options.devices)
  print(as_json(summary) if options.json else as_text(summary))
  return 0


def convert(options: argparse.Namespace) -> int:
  """Runs `vivit convert`."""
  _use_cpu()
  from vivit_jax.convert import huggingface, safetensors_file
  from vivit_jax.pretrained import load_pretrained, write_run

  target = Path(options.target)
  if target.exists():
    raise ConfigError(f'{target} exists: give another TARGET, or delete it first')
  writers = {
    'huggingface': huggingface.write,
    'safetensors': safetensors_file.write,
    'orbax': write_run,
  }
  source = load_pretrained(options.source, **options.hints).source
  writers[options.to](source, target)
  kind = f'{source.format}, {source.model.attention}'
  print(printable(f'{options.source} ({kind}) -> {target} ({options.to})'))
  return 0


def predict(options: argparse.Namespace) -> int:
  """Runs `vivit predict`; 1 where a video could not be read."""
  from vivit_jax.predict import run
  from vivit_jax.pretrained import load_pretrained

  views = parse_views(options.views)
  pretrained = load_pretrained(options.checkpoint, **options.hints)
  stride = options.hints.get('stride')
  return run(
    pretrained,
    options.videos,
    views=views,
    top=options.top,
    stride=stride,
    as_json=options.json,
  )


def parse_views(text: str) -> tuple[int, int]:
  """Returns temporal and spatial views from `TxS`."""
  match = re.fullmatch(r'([1-9]\d{0,8})x([1-9]\d{0,8})', text, re.ASCII)
  if match is None:
    raise ConfigError(
      f'--views={text} is not TxS, temporal x spatial views, each below a milliard, e.g. 4x3'
    )
  return int(match[1]), int(match[2])


def _use_cpu() -> None:
  """Leaves the accelerators to a training run that may hold them."""
  import jax

  jax.config.update('jax_platforms', 'cpu')
