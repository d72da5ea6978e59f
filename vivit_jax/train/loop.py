# SPDX-License-Identifier: Apache-2.0
"""The train loop: the one place that knows data, model, step, checkpoints and evaluation."""

import contextlib
import dataclasses
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from vivit_jax.checkpoint import Checkpoints
from vivit_jax.config import Config
from vivit_jax.data.dataset import open_split, with_classes
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import train_batches
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.model.vivit import ViViT, build
from vivit_jax.pretrained import initialise_params
from vivit_jax.sharding import host_rows, make_mesh, put_batch, put_state, state_sharding
from vivit_jax.train.evaluation import evaluate_run, validate
from vivit_jax.train.guard_rails import hints
from vivit_jax.train.log import RunLog
from vivit_jax.train.optimizer import learning_rate, make_optimizer, total_steps
from vivit_jax.train.state import TrainState, abstract_state, init_state, start_from
from vivit_jax.train.step import compile_forward, compile_step
from vivit_jax.train.stop import Stopped, StopRequest
from vivit_jax.workdir import claim, occupied


def train(config: Config, workdir: Path) -> dict[str, Any]:
  """Trains to the end, or on from the last checkpoint in `workdir`, then evaluates and reports.

  Args:
    config: the experiment; must be that of the run in `workdir`, if there is one.
    workdir: receives config.json, checkpoints/, best/, metrics.jsonl, tensorboard/, skipped.csv,
      report.json, report.html and pictures.

  Returns:
    The results of the final evaluation (see `evaluate.metrics.compute`).

  Raises:
    Stopped: after SIGINT or SIGTERM, once the state is on disk.
    ConfigError, DataError, CheckpointError: for what the user can mend.
  """
  mesh = make_mesh(config)
  config = with_classes(config)
  with occupied(workdir):
    data = open_split(config, 'train')
    claim(workdir, config, data.fingerprint, data.class_names)
    model = build(config)
    steps = total_steps(config, len(data.videos))
    optimizer = make_optimizer(config.train, steps)
    with Checkpoints(workdir, config.checkpoint.keep) as checkpoints, StopRequest() as stop:
      state = _start(config, model, optimizer, mesh, checkpoints)
      for hint in hints(config, data, state.params):
        print(f'vivit: hint: {hint}', file=sys.stderr, flush=True)
      run = _Run(config, workdir, mesh, model, optimizer, checkpoints, stop, data, steps)
      run.steps_from(state)
    return evaluate_run(workdir)


def _start(
  config: Config,
  model: ViViT,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  checkpoints: Checkpoints,
) -> TrainState:
  """Returns the newest state in the workdir, else a fresh one, on its given weights if any."""
  if checkpoints.steps:
    shapes = abstract_state(config, model, optimizer)
    abstract = jax.tree.map(
      lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
      shapes,
      state_sharding(mesh, shapes),
    )
    return checkpoints.restore(checkpoints.steps[-1], abstract)
  state = init_state(config, model, optimizer)
  if config.init.checkpoint is not None:
    try:
      params, table = initialise_params(config, state.params)
    except UserError as error:
      source = config.init.checkpoint
      reason = str(error).removeprefix(f'{source}: ')
      raise ConfigError(f'config.init.checkpoint={source}: {reason}') from None
    print(table, flush=True)
    state = start_from(config, state, params)
  return put_state(mesh, state)


@dataclasses.dataclass
class _Run:
  """What stays the same over the steps of a run."""

  config: Config
  workdir: Path
  mesh: Mesh
  model: ViViT
  optimizer: optax.GradientTransformation
  checkpoints: Checkpoints
  stop: StopRequest
  data: Manifest
  steps: int

  def steps_from(self, state: TrainState) -> None:
    """Runs the steps that are left, with evaluations and checkpoints as scheduled."""
    train, start = self.config.train, int(state.step)
    if start >= self.steps:
      return
    validation = open_split(self.config, 'validation')
    unreadable = self._failures(validation)
    step = compile_step(self.config, self.model, self.optimizer, self.mesh)
    forward = compile_forward(self.model, self.mesh)
    rate = learning_rate(train, self.steps)
    pending: list[dict[str, jax.Array]] = []
    with (
      RunLog(self.workdir, start=start, steps=self.steps, clips_per_step=train.batch_size) as log,
      contextlib.closing(self._batches(start)) as batches,
    ):
      for done, batch in enumerate(log.waiting(batches, lambda: _at_work(pending)), start + 1):
        state, metrics = step(state, batch)
        pending.append(metrics)
        # Unbounded, the steps in flight would each hold a batch on the devices, and fetching it
        # would look like waiting for data.
        jax.block_until_ready(pending[-2:-1])
        log.advance()
        if done == start + 1:
          jax.block_until_ready(state)
          log.restart_clock(done)  # leaves compilation out of the speed
        last = done == self.steps
        if done % train.log_every == 0 or last:
          log.train(done, {**_mean(pending), 'learning_rate': float(rate(done - 1))})
          pending.clear()
        if done % train.evaluate_every == 0 or last:
          results = validate(self.config, validation, forward, state.best_params, unreadable)
          log.validation(done, results.metrics)
          self.checkpoints.save_best(done, state.best_params, results.score)
          log.restart_clock(done)
        stopped = self.stop.received
        if done % train.checkpoint_every == 0 or last or stopped:
          self.checkpoints.save(done, state, {'data': self.data.fingerprint})
        if stopped and not last:
          raise Stopped(done, stopped)

  def _failures(self, data: Manifest) -> Failures:
    return Failures(data, self.config.data.max_bad_share, self.workdir)

  def _batches(self, start: int) -> Generator[dict[str, jax.Array], None, None]:
    """Yields batches on the devices, from the one that follows step `start`."""
    failures = self._failures(self.data)
    rows = host_rows(self.mesh, self.config.train.batch_size)
    for batch in train_batches(
      self.data, self.config, start_step=start, stop_step=self.steps, rows=rows
    ):
      failures.add(batch['failures'])
      yield put_batch(self.mesh, {name: batch[name] for name in ('video', 'label')})


def _at_work(pending: list[dict[str, jax.Array]]) -> bool:
  """Returns whether the last step has not ended."""
  values: list[Any] = [value for row in pending[-1:] for value in row.values()]
  return not all(value.is_ready() for value in values)


def _mean(rows: list[dict[str, jax.Array]]) -> dict[str, float]:
  fetched = jax.device_get(rows)
  return {name: float(np.mean([row[name] for row in fetched])) for name in fetched[0]}
