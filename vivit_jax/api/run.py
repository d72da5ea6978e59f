# SPDX-License-Identifier: Apache-2.0
"""Training from Python, like `vivit train`, in one process."""

import dataclasses
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from vivit_jax.config import file
from vivit_jax.config.parse import parse, setting_type, to_dict
from vivit_jax.config.schema import Config
from vivit_jax.distributed.launch import keep_compiled_programs, quieten_libraries
from vivit_jax.errors import ConfigError
from vivit_jax.train import loop
from vivit_jax.train.stop import Stopped

Setting: TypeAlias = str | int | float | bool | tuple[str | int | float, ...] | None


@runtime_checkable
class SettingsTree(Protocol):
  """A ConfigDict of ml_collections, as returned by recipes."""

  def to_dict(self) -> dict[str, object]:
    """Returns nested dicts of plain values."""


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run.

  Attributes:
    workdir: folder of the run, for use with `load`.
    step: the best step, which was evaluated.
    metrics: metrics of the final evaluation, e.g. top1, top5 and loss; fractions are in [0, 1].
    report: path of report.html.
  """

  workdir: Path
  step: int
  metrics: dict[str, float]
  report: Path


def train(
  config: str | Path | Config | SettingsTree,
  workdir: str | Path,
  settings: Mapping[str, Setting] | None = None,
  *,
  allow_changes: bool = False,
) -> Run:
  """Trains a model, or continues the run in `workdir`, then evaluates and reports.

  It prints and writes the same as `vivit train`. After a signal or an interrupt, the state is saved
  first; the same call then continues. It must be called in the main thread.

  Args:
    config: a recipe, e.g. 'moving_digits' or 'kinetics400:B/16x2,factorised_encoder', the path of
      a config file, a ConfigDict or a `Config`.
    workdir: folder of the run.
    settings: overrides of single settings, e.g. {'train.steps': 100}.
    allow_changes: continue although the run in `workdir` has other settings or data.

  Raises:
    UserError: one line with the setting, file or step, and the remedy.
    KeyboardInterrupt: after an interrupt; the state is saved.
  """
  found = resolve(config, settings or {})
  keep_compiled_programs()
  workdir = Path(workdir)
  try:
    with quieten_libraries():
      results = loop.train(found, workdir, allow_changes=allow_changes)
  except Stopped as stopped:
    if stopped.by == signal.SIGINT:
      raise KeyboardInterrupt(str(stopped)) from stopped
    raise
  metrics = {name: value for name, value in results.items() if isinstance(value, float)}
  return Run(workdir, int(results['step']), metrics, workdir / 'report.html')


def resolve(config: str | Path | Config | SettingsTree, settings: Mapping[str, Setting]) -> Config:
  """Returns the checked config for `train`; see there."""
  if isinstance(config, str | Path):
    overrides = [f'--config.{name}={value}' for name, value in settings.items()]
    return file.load([f'--config={config}', *overrides])
  if not isinstance(config, Config | SettingsTree):
    raise ConfigError(
      f'config is {type(config).__name__}: give the name of a recipe, a path, a ConfigDict or a '
      'Config'
    )
  tree: Any = to_dict(config) if isinstance(config, Config) else config.to_dict()
  for name, value in settings.items():
    setting_type(name)
    *sections, last = name.split('.')
    section = tree
    for part in sections:
      section = section.setdefault(part, {})
    section[last] = value
  return file.finish(parse(tree))
