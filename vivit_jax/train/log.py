# SPDX-License-Identifier: Apache-2.0
"""Where a run's numbers go: the terminal, metrics.jsonl and TensorBoard."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tensorboardX import SummaryWriter
from tqdm import tqdm

from vivit_jax.files import replace_file

METRICS = 'metrics.jsonl'
MUCH_WAITING = 0.1  # share of the time, above which a hint says what to do

T = TypeVar('T')


def read_metrics(workdir: Path) -> list[dict[str, int | float]]:
  """Returns the rows of a run's metrics file, oldest first; a row cut off by a kill is left out."""
  file = workdir / METRICS
  rows = []
  for line in file.read_text().splitlines() if file.exists() else ():
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return rows


class RunLog:
  """Progress of a run; a context manager.

  `metrics.jsonl` has one JSON object a line: `step` and, for training rows, `loss`, `top1`,
  `learning_rate`, `clips_per_second`, `data_wait`, ...; for evaluation rows the
  same names behind `validation_`.
  """

  def __init__(self, workdir: Path, *, start: int, steps: int, clips_per_step: int):
    workdir.mkdir(parents=True, exist_ok=True)
    # What a killed run logged after its last checkpoint will be logged again.
    rows = [row for row in read_metrics(workdir) if row['step'] <= start]
    kept = ''.join(json.dumps(row) + '\n' for row in rows)
    replace_file(workdir / METRICS, kept.encode())
    self._file = (workdir / METRICS).open('a')
    self._board = SummaryWriter(str(workdir / 'tensorboard'), purge_step=start + 1)
    # On a file or a pipe the lines below say the same without control characters.
    self._bar = tqdm(
      total=steps, initial=start, unit='step', desc='train', disable=not sys.stderr.isatty()
    )
    self._steps, self._clips = steps, clips_per_step
    self._windows = 0  # rows of training written
    self._hinted = False
    self.restart_clock(start)

  def __enter__(self) -> 'RunLog':
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._bar.close()
    self._board.close()
    self._file.close()

  def advance(self) -> None:
    """Moves the progress bar by one step."""
    self._bar.update()

  def waiting(self, batches: Iterable[T], busy: Callable[[], bool]) -> Iterator[T]:
    """Yields batches, and counts the time that they are waited for.

    Args:
      batches: of any kind.
      busy: whether the devices are still at work, so that a wait that has ended cost nothing.
    """
    iterator = iter(batches)
    while True:
      began = time.monotonic()
      batch = next(iterator, None)
      if batch is None:
        return
      if not busy():
        self._waited += time.monotonic() - began
      yield batch

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the mean metrics since the last call, with speed, time left and time waited for data.

    `data_wait` is a share of the time since then.
    """
    speed, line = {}, ''
    if step > self._last:  # else it is the first step, whose time is compilation
      seconds = time.monotonic() - self._began
      rate, wait = (step - self._last) * self._clips / seconds, self._waited / seconds
      left = tqdm.format_interval((self._steps - step) * self._clips / rate)
      speed = {'clips_per_second': rate, 'data_wait': wait}
      line = f'  {rate:.1f} clips/s  data_wait {wait:.0%}  ETA {left}'
      self._bar.set_postfix_str(f'data_wait {wait:.0%}')
      self._hint(wait)
    self._write(step, {**metrics, **speed})
    self.say(f'step {step}/{self._steps}  {_show(metrics)}{line}')
    self._windows += 1
    self.restart_clock(step)

  def _hint(self, wait: float) -> None:
    """Says once that data is the bottleneck; not in the first window, when decoders start."""
    if wait > MUCH_WAITING and self._windows and not self._hinted:
      self._hinted = True
      tqdm.write(
        f'vivit: hint: {wait:.0%} of the time is spent waiting for data: give more processes as '
        '--config.data.workers=N, or make the videos cheaper to read with `vivit data build`',
        file=sys.stderr,
      )

  def restart_clock(self, step: int) -> None:
    """Leaves what happened since the last row, such as an evaluation, out of the speed."""
    self._last, self._began, self._waited = step, time.monotonic(), 0.0

  def validation(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the metrics of a scheduled evaluation."""
    self._write(step, {f'validation_{name}': value for name, value in metrics.items()})
    self.say(f'step {step}/{self._steps}  validation: {_show(metrics)}')

  def say(self, line: str) -> None:
    """Prints a line above the progress bar."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()

  def _write(self, step: int, row: Mapping[str, float]) -> None:
    self._file.write(json.dumps({'step': step, **row}) + '\n')
    self._file.flush()
    for name, value in row.items():
      group, _, rest = name.partition('_')
      tag = f'validation/{rest}' if group == 'validation' else f'train/{name}'
      self._board.add_scalar(tag, value, step)


def _show(metrics: Mapping[str, float]) -> str:
  return '  '.join(f'{name} {value:.4g}' for name, value in metrics.items())
