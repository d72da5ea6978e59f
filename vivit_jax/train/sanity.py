# SPDX-License-Identifier: Apache-2.0
"""Checks before a long run: warnings about the config, and overfitting of one batch."""

import contextlib
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from tqdm import tqdm

from vivit_jax.config.schema import Config
from vivit_jax.data.augmentation.mirror import mirrored_classes
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import train_batches
from vivit_jax.data.splits import open_split
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import host_rows, shard_batch, shard_state
from vivit_jax.errors import ConfigError, and_more
from vivit_jax.model.vivit import build
from vivit_jax.train.initialize import initial_state
from vivit_jax.train.optimizer import make_optimizer, total_steps
from vivit_jax.train.step import compile_step
from vivit_jax.weights.architecture import resolved

# ViViT-B has 370 per video of Kinetics-400, where the paper could not train it from scratch
# (section 3.4); the small model of configs/moving_digits.py has 300 per video and can be trained.
PARAMETERS_PER_VIDEO = 1000
ROTATION = re.compile(r'(?<![a-z])(?:anti|counter)[-_ ]?(?=clockwise)', re.IGNORECASE)


def warnings_for(config: Config, data: Manifest, params: Any) -> list[str]:
  """Returns one-line warnings, with remedies, about settings that will probably not work well.

  Args:
    config: config of the run.
    data: training videos.
    params: parameters of the model, as arrays or shapes.
  """
  found = []
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  videos = len(data.videos)
  scratch = config.init.checkpoint is None and config.task.kind != 'masked'
  if scratch and count > PARAMETERS_PER_VIDEO * videos:
    found.append(
      f'{count / 1e6:.1f} M parameters start from scratch on {videos} videos and will overfit: '
      'give weights with --config.init.checkpoint=CHECKPOINT (docs/weights.md) or a smaller model'
    )
  if config.train.learning_rate == 0:
    found.append("config.train.learning_rate=0 learns nothing: give the recipe's")
  evaluations = (total_steps(config, videos) - 1) // config.train.evaluate_every  # before the end
  if config.train.patience is not None and evaluations <= config.train.patience:
    found.append(
      f'config.train.patience={config.train.patience} never ends this run early, since it has '
      f'{evaluations} evaluations before its last step: give a smaller '
      '--config.train.evaluate_every'
    )
  if config.data.balance and config.train.balanced_loss:
    found.append(
      f'config.data.balance={config.data.balance!r} already shows classes equally often, and '
      'config.train.balanced_loss increases the weight of rare classes again: use only one of them'
    )
  if config.task.kind == 'masked':
    return found
  return [*found, *_mirrored(config, data), *_without_examples(config, data)]


def _mirrored(config: Config, data: Manifest) -> Iterator[str]:
  """Yields a warning for each head with classes that look like another class when mirrored."""
  if config.augment.flip == 'off':
    return
  for head, names in data.class_names.items():
    sides = [i for i, other in enumerate(mirrored_classes(names)) if other not in (None, i)]
    turns = _turns(names)
    if config.augment.flip == 'swap_labels':
      sides = []  # their labels are swapped
    if sides or turns:
      remedy = 'off' if turns else 'swap_labels or off'
      yield (
        f'config.augment.flip={config.augment.flip!r} shows half of all clips mirrored, but '
        f'{len(sides) + len(turns)} classes of {head!r} differ only in direction '
        f'({and_more(names[i] for i in (*sides, *turns))}): give --config.augment.flip={remedy}'
      )


def _turns(names: Sequence[str]) -> list[int]:
  """Returns classes whose names differ from another one only by clockwise/counterclockwise."""
  turned = [ROTATION.sub('', name.lower()) for name in names]
  return [i for i, name in enumerate(turned) if 'clockwise' in name and turned.count(name) > 1]


def _without_examples(config: Config, data: Manifest) -> list[str]:
  found: list[str] = []
  if not data.labels_known:
    return found
  for column, (head, names) in enumerate(data.class_names.items()):
    if data.multi_label:
      seen = Counter(label for video in data.videos for label in video.labels)
    else:
      seen = Counter(video.labels[column] for video in data.videos)
    missing = [name for i, name in enumerate(names) if not seen[i]]
    if missing:
      found.append(
        f'{len(missing)} of {len(names)} classes of {head!r} have no training video '
        f'({and_more(missing)}): remove them from classes/{head}.txt, or add videos'
      )
  return found


STEPS = 100
LEARNED = 0.9  # fraction of correct clips


def overfit_one_batch(config: Config) -> bool:
  """Trains on the first batch only, without regularization, and prints the change of the loss.

  If a model cannot overfit one batch, the learning rate or the labels are wrong, or there is a bug.
  If it can, it may still fail on all data for other reasons. Writes no files.

  Returns:
    Whether it classifies at least 90 % of the clips correctly.
  """
  if config.task.kind == 'masked':
    raise ConfigError(
      "config.task.kind='masked' hides other patches at every step, so that no model learns one "
      'batch by heart: train it as usual'
    )
  config = _plain(resolved(config))
  mesh = make_mesh(config)
  data = open_split(config, 'train')
  rows = host_rows(mesh, config.train.batch_size)
  stream = train_batches(data, config, start_step=0, stop_step=1, rows=rows)
  with contextlib.closing(stream) as batches:
    first = next(batches)
    batch = shard_batch(mesh, {name: first[name] for name in ('video', 'label')})
  model, optimizer = build(config), make_optimizer(config.train, STEPS)
  state = shard_state(mesh, initial_state(config, model, optimizer))
  step = compile_step(config, model, optimizer, mesh)
  history = []
  for _ in tqdm(range(STEPS), 'overfit', unit='step', disable=not sys.stderr.isatty()):
    state, metrics = step(state, batch)
    history.append({name: float(value) for name, value in metrics.items()})
  before, after = history[0], history[-1]
  score = 'accuracy' if config.task.kind == 'multi_label' else 'top1'
  learned = after[score] >= LEARNED
  verdict = 'the model can learn' if learned else 'the model did NOT learn one batch by heart'
  print(
    f'one batch of {config.train.batch_size} clips, {STEPS} steps: loss {before["loss"]:.3g} -> '
    f'{after["loss"]:.3g}, {score} {before[score]:.2f} -> {after[score]:.2f}: {verdict}'
  )
  if not learned:
    print('try another config.train.learning_rate, and check that labels match the videos')
  return learned


def _plain(config: Config) -> Config:
  """Returns the config without any regularization."""
  model = dataclasses.replace(
    config.model, dropout=0.0, attention_dropout=0.0, head_dropout=0.0, drop_path=0.0
  )
  train = dataclasses.replace(
    config.train, label_smoothing=0.0, weight_decay=0.0, ema_decay=0.0, steps=STEPS
  )
  mix = dataclasses.replace(config.mix, mixup=0.0, cutmix=0.0)
  return dataclasses.replace(config, model=model, train=train, mix=mix)
