# SPDX-License-Identifier: Apache-2.0
"""The train loop, which connects data, model, step, checkpoints and evaluation."""

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.checkpoint.workdir import check_compatible, lock_workdir, meaning, write_snapshot
from vivit_jax.config.schema import Config, Train
from vivit_jax.data.failures import Failures
from vivit_jax.data.manifest import Manifest
from vivit_jax.data.pipeline import placing, train_batches
from vivit_jax.distributed import hosts
from vivit_jax.distributed.allocator import keep_freed_blocks
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import host_rows, shard_batch
from vivit_jax.distributed.shutdown import bounded_unwinding
from vivit_jax.model.vivit import ViViT, build
from vivit_jax.train.class_weights import class_weights
from vivit_jax.train.divergence import check_finite, diverged
from vivit_jax.train.evaluation import open_common_split
from vivit_jax.train.goodput import Goodput
from vivit_jax.train.initialize import restore_or_init
from vivit_jax.train.log import RunLog, opening_line, validations_of
from vivit_jax.train.metrics import MetricsBuffer
from vivit_jax.train.optimizer import learning_rate, make_optimizer, total_steps
from vivit_jax.train.patience import STOPPED, Patience
from vivit_jax.train.profile import Profiler, Steps
from vivit_jax.train.run_evaluation import evaluate_run
from vivit_jax.train.sanity import warnings_for
from vivit_jax.train.state import TrainState, on_host
from vivit_jax.train.step import Step, compile_step, host_cut
from vivit_jax.train.stop import PreemptionHandler, Stopped
from vivit_jax.train.validation import headline, validator
from vivit_jax.train.watchdog import COMPILING, Watchdog
from vivit_jax.train.writers import Writer, check_installed, open_trackers
from vivit_jax.weights.architecture import resolved


def train(
  config: Config,
  workdir: Path,
  *,
  allow_changes: bool = False,
  profile: Steps | None = None,
  ends_process: bool = False,
) -> dict[str, Any]:
  """Trains, or continues from the last checkpoint in `workdir`, then evaluates and reports.

  Args:
    config: the config; must match that of the run in `workdir`, if there is one.
    workdir: receives config.json, checkpoints/, best/, metrics.jsonl, tensorboard/, skipped.csv,
      report.json, report.html and figures.
    allow_changes: continue even if the run in `workdir` has other settings or data.
    profile: steps to trace into workdir/profile/.
    ends_process: whether the process ends afterwards (see `PreemptionHandler`).

  Returns:
    The results of the final evaluation (see `evaluate.metrics.compute`).

  Raises:
    Stopped: after a signal, or if standard output is closed; the state is saved.
    TrainingError: the loss or a gradient is non-finite for too many steps in a row.
    ConfigError, DataError, CheckpointError: mistakes that the user can correct.
  """
  mesh = make_mesh(config)
  config = resolved(config)
  first = hosts.is_first()
  if first:
    check_installed(config)
  lock = lock_workdir(workdir) if first else contextlib.nullcontext()
  goodput = Goodput()
  with lock:
    hosts.check_shared(workdir)
    data = open_common_split(config, 'train')
    with Checkpoints(workdir, read_only=True) as checkpoints:
      saved = checkpoints.abouts()
    same = (workdir, config, data.fingerprint, allow_changes, saved)
    changes = check_compatible(*same) if first else []
    with PreemptionHandler(ends_process) as stop, goodput:  # before, there is nothing to save
      _train(config, workdir, mesh, data, changes, profile, stop, goodput)
      with goodput.during('evaluation'):
        return evaluate_run(workdir, before_batch=stop.raise_if_stopped)


@dataclasses.dataclass(frozen=True)
class _Services:
  """Objects that store, monitor and measure a run."""

  checkpoints: Checkpoints
  watchdog: Watchdog
  profiler: Profiler
  goodput: Goodput
  stop: PreemptionHandler
  trackers: Sequence[Writer]


def _train(
  config: Config,
  workdir: Path,
  mesh: Mesh,
  data: Manifest,
  changes: Sequence[str],
  profile: Steps | None,
  stop: PreemptionHandler,
  goodput: Goodput,
) -> None:
  """Runs the remaining steps; returns when the last state is saved."""
  first = hosts.is_first()
  model = build(config)
  steps = total_steps(config, len(data.videos))
  optimizer = make_optimizer(config.train, steps)
  say, full = functools.partial(print, 'vivit:', flush=True), config.faults.on_disk_full
  train_step = compile_step(config, model, optimizer, mesh, class_weights(config, data), say)
  with (
    Watchdog(config.faults.hang_timeout_seconds) as watchdog,
    Checkpoints(workdir, config.checkpoint.keep, on_disk_full=full) as checkpoints,
    bounded_unwinding(unless=Stopped),
  ):
    watchdog.expect('the initial state', COMPILING)
    state = restore_or_init(config, model, optimizer, mesh, checkpoints)
    keep_freed_blocks()
    # Only now, so that a run that this command cannot continue is not modified.
    if first:
      write_snapshot(workdir, config, data.fingerprint, data.class_names, changes)
      for warning in warnings_for(config, data, state.params):
        print(f'vivit: warning: {warning}', file=sys.stderr, flush=True)
    with Profiler(profile if first else None, workdir, int(state.step), steps) as profiler:
      trackers = open_trackers(config, workdir) if first else []
      services = _Services(checkpoints, watchdog, profiler, goodput, stop, trackers)
      goodput.spent('start')
      _loop(config, workdir, mesh, data, model, train_step, steps, state, services)
    watchdog.expect('the last checkpoint')
  goodput.spent('checkpoint')


def _loop(
  config: Config,
  workdir: Path,
  mesh: Mesh,
  data: Manifest,
  model: ViViT,
  train_step: Step,
  steps: int,
  state: TrainState,
  services: _Services,
) -> None:
  """Runs the steps, starting from the step of `state`.

  Evaluation and checkpoint of step k are at the start of iteration k, where a stopped run
  continues, so that anything not yet done is done then.
  """
  train, start, checkpoints = config.train, int(state.step), services.checkpoints
  watchdog, profiler = services.watchdog, services.profiler
  validations = hosts.broadcast(validations_of(workdir, start))
  validated = bool(validations) and validations[-1]['step'] == start
  patience = Patience(train.patience, headline(config.task), validations)
  if validated and (start == steps or patience.is_over):
    return
  print(opening_line(config, data, state, start, steps, mesh), flush=True)
  evaluate = _evaluation(config, workdir, mesh, model, data, services)
  failures = Failures(data, config.data.max_bad_fraction, workdir)
  buffer = MetricsBuffer(start, checkpoints.about(start).get('window', []) if start else [])
  with (
    RunLog(workdir, start, steps, train.batch_size, services.goodput, services.trackers) as log,
    contextlib.closing(_batches(config, mesh, data, start, steps, failures)) as stream,
  ):
    batches = log.waiting(stream, buffer.idle_since)
    log_metrics = functools.partial(_log_metrics, train, steps, buffer, log, failures)
    save = functools.partial(_save, config, data, buffer, services)
    try:
      for step in range(start, steps + 1):
        last = step == steps
        evaluates = step and (step % train.evaluate_every == 0 or last)
        saves = step > start and (step % train.checkpoint_every == 0 or last)
        if evaluates or saves:  # which wait for the step anyway
          log_metrics(step)
        if len(buffer.consecutive_skips) >= config.faults.max_consecutive_nonfinite:
          skips, reasons = buffer.consecutive_skips, failures.reasons
          raise diverged(config, data, workdir, skips, reasons, checkpoints.steps)
        if evaluates and not (step == start and validated):
          last = _log_validation(log, patience, step, evaluate(step, state), last)
        if (saves or (last and step > start)) and (last or not buffer.last_step_skipped()):
          save(step, state, wait=last)
        checkpoints.check()
        if last:
          break
        if step > start:
          services.stop.raise_if_stopped()
        else:
          log.say('vivit: compiling the training step')
        watchdog.expect(f'step {step + 1}', COMPILING if step == start else 1.0)
        batch = next(batches)
        profiler.before(step + 1)
        state, metrics = train_step(state, batch)
        watchdog.expect(f'step {step}')
        buffer.add(step + 1, metrics)  # waits for `step`
        profiler.after(step + 1, state)
        log.advance()
        log_metrics(step)
    except Stopped as stopped:
      log_metrics(step)
      save(step, state, wait=True)
      failures.collect()
      stopped.step = step
      raise


def _log_validation(
  log: RunLog, patience: Patience, step: int, found: dict[str, float], last: bool
) -> bool:
  """Writes an evaluation to the log, which marks it as done; returns whether training ends."""
  patience.add(found)
  early = patience.is_over and not last
  if early:
    log.say(f'vivit: no better validation in {patience.waited} evaluations, so training ends')
  log.validation(step, found | ({STOPPED: 1.0} if early else {}))
  return last or early


def _log_metrics(
  train: Train, steps: int, buffer: MetricsBuffer, log: RunLog, failures: Failures, step: int
) -> None:
  """Writes the log row of a step if it is due and missing; blocks until the step is done."""
  if step % train.log_every and step != steps:
    return
  if means := buffer.take_mean(step):
    with on_host():  # on the devices it would wait for the next step
      rate = float(learning_rate(train, steps)(step - 1))
    log.train(step, {**means, 'learning_rate': rate})
    failures.collect()


def _evaluation(
  config: Config,
  workdir: Path,
  mesh: Mesh,
  model: ViViT,
  data: Manifest,
  services: _Services,
) -> Callable[[int, TrainState], dict[str, float]]:
  """Returns a function that evaluates parameters, saves the best, and returns the metrics."""
  validation = validator(config, workdir, mesh, model, data)
  checkpoints, watchdog, goodput = services.checkpoints, services.watchdog, services.goodput

  def evaluate(step: int, state: TrainState) -> dict[str, float]:
    check_finite(state, step, checkpoints.steps)
    with goodput.during('evaluation'):
      what = 'the next batch of the validation'
      before_batch = watchdog.series(what, services.stop.raise_if_stopped)
      results = validation(state.eval_params, before_batch)
    watchdog.expect(f'the best checkpoint at step {step}')
    with goodput.during('checkpoint'):
      about = {'settings': meaning(config)}
      checkpoints.save_best(step, state.eval_params, results.score, results.loss, about)
    return results.metrics

  return evaluate


def _save(
  config: Config,
  data: Manifest,
  buffer: MetricsBuffer,
  services: _Services,
  step: int,
  state: TrainState,
  *,
  wait: bool,
) -> None:
  """Starts saving a state; with `wait`, blocks until it is saved."""
  check_finite(state, step, services.checkpoints.steps)
  services.watchdog.expect(f'the checkpoint of step {step}')
  with services.goodput.during('checkpoint'):
    about = {'data': data.fingerprint, 'window': buffer.rows(), 'settings': meaning(config)}
    services.checkpoints.save(step, state, about)
    if wait:
      services.checkpoints.wait_for(step)


def _batches(
  config: Config, mesh: Mesh, data: Manifest, start: int, steps: int, failures: Failures
) -> Generator[dict[str, jax.Array], None, None]:
  """Yields batches on the devices, starting after step `start`; two are placed ahead."""
  cut = host_cut(config, mesh.devices.flat[0].device_kind)
  place = placing(functools.partial(shard_batch, mesh), cut)
  rows = host_rows(mesh, config.train.batch_size)
  batches = train_batches(data, config, start_step=start, stop_step=steps, rows=rows, place=place)
  for batch in batches:
    failures.add(batch['failures'])
    yield {name: batch[name] for name in ('video', 'label')}
