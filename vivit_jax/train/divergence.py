# SPDX-License-Identifier: Apache-2.0
"""Errors of a diverged run: which steps, which videos, and the last usable checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from vivit_jax.config.schema import Config
from vivit_jax.data.examples import TrainingExamples
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.tables import as_csv
from vivit_jax.distributed import hosts
from vivit_jax.errors import TrainingError, and_more
from vivit_jax.files import replace_file

FILE = 'not_finite.csv'
SHOWN = 3  # videos listed in the message
REMEDY = 'give a smaller --config.train.learning_rate or a longer warm-up'


def diverged(
  config: Config,
  data: Manifest,
  workdir: Path,
  steps: Sequence[int],
  unreadable: Mapping[str, str],
  saved: Sequence[int],
) -> TrainingError:
  """Returns the error for consecutive skipped steps and lists their videos in `workdir`.

  Args:
    config: config of the run.
    data: training videos.
    workdir: receives not_finite.csv with rows of step and path.
    steps: the consecutive steps whose update was skipped.
    unreadable: reasons by path of unreadable videos, which were replaced by other videos.
    saved: steps that have a checkpoint.
  """
  size = config.train.batch_size
  examples = TrainingExamples(data, config)
  rows = [
    (step, _video(examples, number, unreadable))
    for step in steps
    for number in range((step - 1) * size, step * size)
  ]
  if hosts.is_first():
    replace_file(workdir / FILE, as_csv([('step', 'path'), *rows]))
  paths = [path for step, path in rows if step == steps[-1]]
  return TrainingError(
    f'loss or gradient of steps {steps[0]} to {steps[-1]} are not finite '
    f'(config.faults.max_consecutive_nonfinite={config.faults.max_consecutive_nonfinite}) and '
    f'were skipped; {_last_checkpoint(saved)}; the videos of step {steps[-1]} are '
    f'{and_more(paths, SHOWN)}, all are in '
    f'{workdir / FILE}: {REMEDY}, or remove these videos'
  )


def check_finite(state: Any, step: int, saved: Sequence[int]) -> None:
  """Raises TrainingError if the state has a non-finite value, so that it is not saved."""
  if not all_finite(state):
    raise TrainingError(
      f'parameters or optimizer state after step {step} are not finite and were not saved; '
      f'{_last_checkpoint(saved)}: {REMEDY}'
    )


@jax.jit
def all_finite(state: Any) -> Bool[Array, '']:
  """Returns whether all values of a tree are finite."""
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]))


def _last_checkpoint(saved: Sequence[int]) -> str:
  return f'the last checkpoint is of step {max(saved)}' if saved else 'there is no checkpoint yet'


def _video(examples: TrainingExamples, number: int, unreadable: Mapping[str, str]) -> str:
  """Returns the path of the video from which an example was decoded."""
  failures: list[tuple[str, str]] = []
  while (path := examples.request(number, failures).video.path) in unreadable:
    failures.append((path, unreadable[path]))
  return path
