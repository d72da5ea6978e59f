# SPDX-License-Identifier: Apache-2.0
"""The train loop: the one place that knows data, model, step, checkpoints and evaluation."""

import contextlib
import dataclasses
import functools
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from vivit_jax.checkpoint.fingerprint import describe
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.workdir import check_continues, claim, meaning, occupied
from vivit_jax.config.schema import Config
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import train_batches
from vivit_jax.data.splits import with_classes
from vivit_jax.distributed import hosts
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import host_rows, placed, put_batch, put_state
from vivit_jax.distributed.shutdown import bounded_unwinding
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.model.vivit import ViViT, build
from vivit_jax.train.divergence import check_finite, diverged
from vivit_jax.train.evaluation import BeforeBatch, Validation, open_common_split, validate
from vivit_jax.train.goodput import Goodput
from vivit_jax.train.log import RunLog, is_validation, opening_line, read_metrics
from vivit_jax.train.metrics import Window
from vivit_jax.train.optimizer import learning_rate, make_optimizer, total_steps
from vivit_jax.train.profile import Profiler, Steps
from vivit_jax.train.run_evaluation import evaluate_run
from vivit_jax.train.sanity import hints
from vivit_jax.train.state import TrainState, abstract_state, init_state, start_from
from vivit_jax.train.step import compile_forward, compile_step
from vivit_jax.train.stop import Interrupted, Stopped, StopRequest
from vivit_jax.train.watchdog import COMPILING, Watchdog
from vivit_jax.weights.pretrained import initialise_params

Evaluation = Callable[[Any, BeforeBatch], Validation]


def train(
  config: Config,
  workdir: Path,
  *,
  allow_changes: bool = False,
  profile: Steps | None = None,
  ends_process: bool = False,
) -> dict[str, Any]:
  """Trains to the end, or on from the last checkpoint in `workdir`, then evaluates and reports.

  Args:
    config: the experiment; must be that of the run in `workdir`, if there is one.
    workdir: receives config.json, checkpoints/, best/, metrics.jsonl, tensorboard/, skipped.csv,
      report.json, report.html and pictures.
    allow_changes: go on although the run in `workdir` has other settings or data.
    profile: steps to trace into workdir/profile/.
    ends_process: the caller does nothing after it that a signal should stop (see `StopRequest`).

  Returns:
    The results of the final evaluation (see `evaluate.metrics.compute`).

  Raises:
    Stopped: after a signal, or once standard output is closed, with the state on disk.
    TrainingError: loss or gradient are not finite, step after step.
    ConfigError, DataError, CheckpointError: for what the user can mend.
  """
  mesh = make_mesh(config)
  config = with_classes(config)
  first = hosts.is_first()
  alone = occupied(workdir) if first else contextlib.nullcontext()
  goodput = Goodput()
  with alone:
    hosts.check_shared(workdir)
    data = open_common_split(config, 'train')
    with Checkpoints(workdir, read_only=True) as checkpoints:
      saved = checkpoints.abouts()
    changes: list[str] = []
    if first:
      changes = check_continues(workdir, config, data.fingerprint, allow_changes, saved)
    with StopRequest(ends_process) as stop, goodput:  # before, there is nothing to save
      steps = _train(config, workdir, mesh, data, changes, profile, stop, goodput)
      with goodput.during('evaluation'):
        try:
          return evaluate_run(workdir, before_batch=stop.heed)
        except Interrupted as interrupted:
          raise Stopped(steps, interrupted.by, evaluating=True) from None


def _train(
  config: Config,
  workdir: Path,
  mesh: Mesh,
  data: Manifest,
  changes: Sequence[str],
  profile: Steps | None,
  stop: StopRequest,
  goodput: Goodput,
) -> int:
  """Does the steps that are left; returns how many the run has in all, once they are on disk."""
  first = hosts.is_first()
  model = build(config)
  steps = total_steps(config, len(data.videos))
  optimizer = make_optimizer(config.train, steps)
  keep, disk_full = config.checkpoint.keep, config.faults.disk_full
  with (
    Watchdog(config.faults.hang_seconds) as watchdog,
    Checkpoints(workdir, keep, disk_full=disk_full) as checkpoints,
    bounded_unwinding(unless=Stopped),
  ):
    watchdog.expect('the first step', COMPILING)
    state = _start(config, model, optimizer, mesh, checkpoints)
    # Not before: a run that cannot be continued so must stay what it is.
    if first:
      claim(workdir, config, data.fingerprint, data.class_names, changes)
      for hint in hints(config, data, state.params):
        print(f'vivit: hint: {hint}', file=sys.stderr, flush=True)
    with Profiler(profile if first else None, workdir, int(state.step), steps) as profiler:
      run = _Run(
        config, workdir, mesh, model, optimizer, checkpoints, data, steps, stop, watchdog,
        goodput, profiler,
      )  # fmt: skip
      goodput.spent('start')
      run.steps_from(state)
    watchdog.expect('the last checkpoint')
  goodput.spent('checkpoint')
  return steps


def _start(
  config: Config,
  model: ViViT,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  checkpoints: Checkpoints,
) -> TrainState:
  """Returns the newest whole state in the workdir, else a fresh one, on given weights if any."""
  abstract = placed(mesh, abstract_state(config, model, optimizer))
  checkpoints.check_best(abstract.best_params)
  restored = checkpoints.restore_newest(abstract)
  if restored is not None:
    return restored
  state = init_state(config, model, optimizer)
  if config.init.checkpoint is not None:
    try:
      params, table = initialise_params(config, state.params)
    except UserError as error:
      source = config.init.checkpoint
      reason = str(error).removeprefix(f'{source}: ')
      raise ConfigError(f'config.init.checkpoint={source}: {reason}') from None
    if hosts.processes() > 1:
      place = config.init.checkpoint
      hosts.agree({f'{name} of {place}': bits for name, (_, bits) in describe(params).items()})
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
  data: Manifest
  steps: int
  stop: StopRequest
  watchdog: Watchdog
  goodput: Goodput
  profiler: Profiler

  def steps_from(self, state: TrainState) -> None:
    """Runs the steps that are left, with evaluations and checkpoints as scheduled."""
    train, start = self.config.train, int(state.step)
    owed = self._owes_validation(start)
    if start >= self.steps and not owed:
      return
    print(opening_line(self.config, self.data, state, start, self.steps, self.mesh), flush=True)
    step = compile_step(self.config, self.model, self.optimizer, self.mesh)
    rate = learning_rate(train, self.steps)
    evaluate = self._evaluation()
    unreadable = self._failures(self.data)
    window = Window(self.checkpoints.about(start).get('window', []) if start else [])
    with (
      RunLog(self.workdir, start, self.steps, train.batch_size, self.goodput) as log,
      contextlib.closing(self._batches(start, unreadable)) as batches,
    ):
      left = self._validate(start, state, log, evaluate) if owed else None
      if left is not None:
        raise Stopped(start, left)
      self.watchdog.expect('the first step', COMPILING)
      log.say('vivit: compiling the training step')
      for done, batch in enumerate(log.waiting(batches, window.at_work), start + 1):
        self.profiler.before(done)
        state, metrics = step(state, batch)
        window.add(done, metrics)
        self.profiler.after(done, state)
        log.advance()
        last = done == self.steps
        if done % train.log_every == 0 or last:
          log.train(done, {**window.mean(), 'learning_rate': float(rate(done - 1))})
          unreadable.collect()
        if len(window.in_row) >= self.config.faults.nonfinite_in_row:
          raise diverged(
            self.config, self.data, self.workdir, window.in_row, unreadable.reasons,
            self.checkpoints.steps,
          )  # fmt: skip
        if done % train.evaluate_every == 0 or last:
          left = self._validate(done, state, log, evaluate)
        stopped = self.stop.agreed()
        due = done % train.checkpoint_every == 0 and not window.skipping()
        if due or last or stopped:
          self._save(done, state, window, wait=last or stopped is not None)
        self.checkpoints.check()
        if stopped and (left or not last):
          unreadable.collect()
          raise Stopped(done, stopped)
        self.watchdog.expect(f'step {done + 1}')

  def _owes_validation(self, start: int) -> bool:
    """Returns whether a signal kept the run from the validation that follows step `start`."""
    if start == 0 or (start % self.config.train.evaluate_every and start != self.steps):
      return False
    rows = read_metrics(self.workdir)
    owed = not any(row['step'] == start and is_validation(row) for row in rows)
    return hosts.from_first(owed)

  def _evaluation(self) -> Evaluation:
    """Returns what evaluates parameters on the validation videos."""
    data = open_common_split(self.config, 'validation')
    forward = compile_forward(self.model, self.mesh)
    return functools.partial(validate, self.config, data, forward, self._failures(data))

  def _validate(
    self, done: int, state: TrainState, log: RunLog, evaluate: Evaluation
  ) -> signal.Signals | None:
    """Evaluates and keeps the best; returns the signal that came before that was done, if any."""
    check_finite(state, done, self.checkpoints.steps)
    with self.goodput.during('evaluation'):
      between = self.watchdog.series('the next batch of the validation', self.stop.heed)
      try:
        results = evaluate(state.best_params, between)
      except Interrupted as interrupted:
        return interrupted.by
    self.watchdog.expect(f'the best checkpoint at step {done}')
    with self.goodput.during('checkpoint'):
      about = {'settings': meaning(self.config)}
      self.checkpoints.save_best(done, state.best_params, results.score, results.loss, about)
    # Last: it says that all of this need not be done again.
    log.validation(done, results.metrics)
    return None

  def _save(self, done: int, state: TrainState, window: Window, *, wait: bool) -> None:
    check_finite(state, done, self.checkpoints.steps)
    self.watchdog.expect(f'the checkpoint of step {done}')
    with self.goodput.during('checkpoint'):
      about = {
        'data': self.data.fingerprint,
        'window': window.rows(),
        'settings': meaning(self.config),
      }
      self.checkpoints.save(done, state, about)
      if wait:
        self.checkpoints.wait_for(done)

  def _failures(self, data: Manifest) -> Failures:
    return Failures(data, self.config.data.max_bad_share, self.workdir)

  def _batches(
    self, start: int, unreadable: Failures
  ) -> Generator[dict[str, jax.Array], None, None]:
    """Yields batches on the devices, from the one that follows step `start`."""
    rows = host_rows(self.mesh, self.config.train.batch_size)
    for batch in train_batches(
      self.data, self.config, start_step=start, stop_step=self.steps, rows=rows
    ):
      unreadable.add(batch['failures'])
      yield put_batch(self.mesh, {name: batch[name] for name in ('video', 'label')})
