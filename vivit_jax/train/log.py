# SPDX-License-Identifier: Apache-2.0
"""Where a run's numbers go: the terminal, metrics.jsonl and TensorBoard."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter
from tqdm import tqdm

from vivit_jax.files import replace_file

METRICS = 'metrics.jsonl'


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
  `learning_rate`, `clips_per_second`, ...; for evaluation rows the same names behind `validation_`.
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
    self._last, self._began = start, time.monotonic()

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

  def train(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes the mean metrics since the last call, with speed and time left."""
    speed = ''
    if step > self._last:  # else it is the first step, whose time is compilation
      rate = (step - self._last) * self._clips / (time.monotonic() - self._began)
      left = (self._steps - step) * self._clips / rate
      speed = f'  {rate:.1f} clips/s  ETA {tqdm.format_interval(left)}'
    self._write(step, {**metrics, **({'clips_per_second': rate} if speed else {})})
    self.say(f'step {step}/{self._steps}  {_show(metrics)}{speed}')
    self.restart_clock(step)

  def restart_clock(self, step: int) -> None:
    """Leaves what happened since the last row, such as an evaluation, out of the speed."""
    self._last, self._began = step, time.monotonic()

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
