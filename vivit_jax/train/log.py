# SPDX-License-Identifier: Apache-2.0
"""Writes a run's metrics to the terminal, to metrics.jsonl and to TensorBoard."""

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO, TypeVar

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from vivit_jax.config.schema import Config
from vivit_jax.data.manifest import Manifest
from vivit_jax.distributed import hosts as cluster
from vivit_jax.errors import CheckpointError
from vivit_jax.files import naming, replace_file
from vivit_jax.train.goodput import Goodput
from vivit_jax.train.metrics import SKIPPED
from vivit_jax.train.state import TrainState
from vivit_jax.train.writers import EventWriter, Writer

METRICS = 'metrics.jsonl'
MUCH_WAITING = 0.1  # fraction of the time spent waiting for data that triggers a warning

VALIDATION = 'validation_'  # how the names of its columns start

T = TypeVar('T')


def read_metrics(workdir: Path) -> list[dict[str, int | float]]:
  """Returns the rows of a run's metrics file, oldest first, without an incomplete last row.

  Non-finite values are NaN.

  Raises:
    CheckpointError: a line is not a row; names the line.
  """
  file = workdir / METRICS
  if not file.exists():
    return []
  if not file.is_file():
    raise CheckpointError(f'{file} is not a regular file: give another --workdir or delete it')
  rows = []
  # An incomplete row, after a kill, has no newline.
  for number, line in enumerate(file.read_bytes().split(b'\n')[:-1], 1):
    try:
      row = json.loads(line)
      if type(row['step']) is not int:
        raise TypeError
      rows.append({name: math.nan if v is None else v + 0 for name, v in row.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
      raise CheckpointError(f'{file}:{number} is not a row of numbers: delete the line') from None
  return rows


def _line(row: Mapping[str, Any]) -> str:
  """Returns a row of the metrics file as JSON, with null for NaN and infinities."""
  finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
  return json.dumps(finite) + '\n'


def validations_of(workdir: Path, until: int | float = math.inf) -> list[dict[str, int | float]]:
  """Returns step and metrics of a run's scheduled evaluations up to a step, in order."""
  return [
    {'step': row['step']}
    | {name.removeprefix(VALIDATION): v for name, v in row.items() if name.startswith(VALIDATION)}
    for row in read_metrics(workdir)
    if row['step'] <= until and any(name.startswith(VALIDATION) for name in row)
  ]


class RunLog:
  """Log of a run; a context manager. Only process 0 writes.

  `metrics.jsonl` has one JSON object per line, with null for non-finite values. Training rows have
  `step`, `loss`, `top1`, `learning_rate`, `clips_per_second`, `data_wait`, ..., and the seconds
  that this command has spent on each activity so far, prefixed by `seconds_`. Evaluation rows have
  `step` and metrics prefixed by `validation_`.
  """

  def __init__(
    self,
    workdir: Path,
    start: int,
    steps: int,
    clips_per_step: int,
    goodput: Goodput,
    trackers: Sequence[Writer] = (),
  ):
    self._file: TextIO | None = None
    if cluster.is_first():
      workdir.mkdir(parents=True, exist_ok=True)
      # Rows after the last checkpoint will be logged again.
      rows = [row for row in read_metrics(workdir) if row['step'] <= start]
      self._path = workdir / METRICS
      replace_file(self._path, ''.join(map(_line, rows)).encode())
      self._file = self._path.open('a')
      self._writers: list[Writer] = [EventWriter(workdir / 'tensorboard', start + 1), *trackers]
    # No progress bar if the output is a file or a pipe.
    self._bar = tqdm(
      total=steps, initial=start, unit='step', desc='train', disable=not sys.stderr.isatty()
    )
    self._steps, self._clips = steps, clips_per_step
    self._windows = 0  # rows of training written
    self._warned = False
    self._goodput = goodput
    self._last, self._before = start, dict(goodput.seconds)  # at the last row of training

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._bar.close()
    if self._file is not None:
      with contextlib.ExitStack() as stack:
        for writer in self._writers:
          stack.callback(writer.close, error is not None)
        with naming(self._path):
          self._file.close()

  def advance(self) -> None:
    """Moves the progress bar by one step."""
    self._bar.update()

  def waiting(self, batches: Iterable[T], idle_since: Callable[[], float]) -> Iterator[T]:
    """Yields batches and accounts for the time that devices wait for them.

    Args:
      batches: any iterable.
      idle_since: see `DeviceClock`; until then a wait costs nothing.
    """
    iterator = iter(batches)
    while True:
      self._goodput.spent('step')
      batch = next(iterator, None)
      if batch is None:
        return
      idle = idle_since()
      self._goodput.spent('step', until=idle)
      if idle < math.inf:
        self._goodput.spent('input')
      yield batch

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the mean metrics since the last call, with speed, time left and `data_wait`.

    `data_wait` is the fraction of the time in which devices waited for data. Both it and the speed
    exclude evaluations, checkpoints and compilation.
    """
    self._goodput.spent('step')
    now = dict(self._goodput.seconds)
    waited = now['input'] - self._before['input']
    seconds = waited + now['step'] - self._before['step']
    rate, wait = (step - self._last) * self._clips / seconds, waited / seconds
    left = tqdm.format_interval((self._steps - step) * self._clips / rate)
    times = {f'seconds_{name}': value for name, value in now.items()}
    self._write(step, {**metrics, 'clips_per_second': rate, 'data_wait': wait, **times})
    shown = {name: value for name, value in metrics.items() if value or name != SKIPPED}
    self.say(
      f'step {step}/{self._steps}  {_show(shown)}  '
      f'{rate:.1f} clips/s  data_wait {wait:.0%}  ETA {left}'
    )
    self._bar.set_postfix_str(f'data_wait {wait:.0%}')
    self._warn_of_slow_data(wait)
    self._windows += 1
    self._last, self._before = step, now

  def _warn_of_slow_data(self, wait: float) -> None:
    """Warns once if data is the bottleneck; not for the first row, while decoders start up."""
    if wait > MUCH_WAITING and self._windows and not self._warned and self._file is not None:
      self._warned = True
      tqdm.write(
        f'vivit: warning: {wait:.0%} of the time is spent waiting for data: use more processes '
        'with --config.data.workers=N, or make the videos faster to read with `vivit data build`',
        file=sys.stderr,
      )

  def validation(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of a scheduled evaluation."""
    self._write(step, {f'{VALIDATION}{name}': value for name, value in metrics.items()})
    self.say(f'step {step}/{self._steps}  validation: {_show(metrics)}')

  def say(self, line: str) -> None:
    """Prints a line above the progress bar."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()

  def _write(self, step: int, row: Mapping[str, float]) -> None:
    if self._file is None:
      return
    with naming(self._path):
      self._file.write(_line({'step': step, **row}))
      self._file.flush()
    for writer in self._writers:
      writer.write(step, {_tag(name): value for name, value in row.items()})


def _tag(name: str) -> str:
  group, _, rest = name.partition('_')
  return f'{group}/{rest}' if group in ('validation', 'seconds') else f'train/{name}'


def _show(metrics: Mapping[str, float]) -> str:
  return '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())


def opening_line(
  config: Config, data: Manifest, state: TrainState, start: int, steps: int, mesh: Mesh
) -> str:
  """Returns one line that describes the run."""
  model, device = config.model, mesh.devices.flat[0]
  classes = ' x '.join(map(str, config.task.classes))
  what = f' of {classes} classes' if classes else ''
  parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  hosts = f' of {cluster.processes()} processes' if cluster.processes() > 1 else ''
  return (
    f'vivit: {len(data.videos):,} videos{what}, steps {start + 1:,} to {steps:,} of '
    f'{config.train.batch_size} clips; {model.attention} of {model.layers} layers, '
    f'{parameters:,} parameters; {mesh.size} x {device.device_kind}{hosts}'
  )
