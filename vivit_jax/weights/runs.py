# SPDX-License-Identifier: Apache-2.0
"""Our own training runs as checkpoints: read, and written from weights of other programs."""

import math
from pathlib import Path
from typing import Literal

from flax import traverse_util

from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.workdir import (
  SNAPSHOT,
  config_of_weights,
  meaning,
  read_class_names,
  write_snapshot,
)
from vivit_jax.config.clip import Preprocessing
from vivit_jax.config.schema import CheckpointFacts, Config, Evaluate, head_slices, usual_views
from vivit_jax.errors import CheckpointError
from vivit_jax.weights.names_encoders import PRETRAINING
from vivit_jax.weights.normalization import fold
from vivit_jax.weights.source import Source, check_hints, check_source, without_decoder


def read_run(
  workdir: Path, step: int | Literal['best', 'last'], hints: CheckpointFacts | None
) -> tuple[Source, int, Config]:
  """Returns a run's parameters, their step, and the settings that they were saved with.

  Args, Raises: as `pretrained.load_run`.
  """
  names = read_class_names(workdir)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    params, number, about = checkpoints.read_params(step)
  config = config_of_weights(workdir, about)
  for head in config.task.heads:
    if names and head not in names:
      raise CheckpointError(f'{workdir / SNAPSHOT} has no class names of the head {head!r}')
  clip = config.clip
  masked = config.task.kind == 'masked'
  flat, decoder = without_decoder(traverse_util.flatten_dict(params, sep='/'))
  source = Source(
    path=workdir,
    format='vivit_jax run',
    kind='video',
    params=flat,
    model=config.model,
    frames=clip.frames,
    height=clip.height,
    width=clip.width,
    task=None if masked else config.task,
    labels=(
      tuple(name for head in config.task.heads for name in names[head])
      if names and not masked
      else None
    ),
    preprocessing=Preprocessing.of(clip, config.test_short_side),
    unused=dict.fromkeys(decoder, PRETRAINING),
    decoder=decoder,
  )
  check_source(source)
  check_hints(source, hints or CheckpointFacts())
  return source, number, config


def write_run(source: Source, workdir: Path) -> None:
  """Writes a checkpoint as the best step of a new workdir, for training and `load_pretrained`.

  Args:
    source: a video model. If its weights expect BGR, the tokenizer's channels are reordered.
    workdir: a new folder.

  Raises:
    CheckpointError: it is an image model or has no head, which runs do not support.
  """
  task = source.task
  if source.kind == 'image' or task is None:
    raise CheckpointError(
      f'{source.path} is not a video classifier, which a run requires: use --to=safetensors, or '
      'initialize a model from it with --config.init.checkpoint'
    )
  mean, std = source.normalization()
  if source.preprocessing.channels == 'bgr':
    mean, std = mean[::-1], std[::-1]
  source = fold(source, mean, std)
  wants = source.preprocessing
  clip = wants.clip(source.frames, source.height, source.width)
  evaluate = Evaluate(*usual_views(wants), short_side=wants.short_side)
  config = Config(task=task, model=source.model, clip=clip, evaluate=evaluate)
  names = {}
  if source.labels is not None:
    names = {head: source.labels[part] for head, part in head_slices(task).items()}
  with Checkpoints(workdir) as checkpoints:
    params = traverse_util.unflatten_dict(source.params, sep='/')
    checkpoints.save_best(0, params, math.nan, about={'settings': meaning(config)})
  write_snapshot(workdir, config, f'weights of {source.path.name}', names)
