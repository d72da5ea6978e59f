# SPDX-License-Identifier: Apache-2.0
"""Tries an experiment, then the changes that may make it fit, until one does."""

import dataclasses
import sys
import time
from collections.abc import Callable

from vivit_jax.config import Config
from vivit_jax.errors import ConfigError
from vivit_jax.plan.changes import Change, changes, combinations, with_changes
from vivit_jax.plan.estimate import estimate

HOPELESS = 1.3  # times the memory, as estimated: not worth minutes of compilation
TRIES = 6  # compilations at most, so that a plan ends

Compile = Callable[[Config], tuple[dict[str, int], str]]


@dataclasses.dataclass(frozen=True)
class Trial:
  """One way to train, and what it needs.

  Attributes:
    made: changes to the experiment.
    sizes: bytes per device by what they are for; empty where the compiler did not come so far.
    fits: whether they fit.
    seconds: that compilation took; None of an estimate.
    refusal: of the compiler.
  """

  made: tuple[Change, ...]
  sizes: dict[str, int]
  fits: bool
  seconds: float | None = None
  refusal: str = ''


def search(config: Config, devices: int, available: int, compiler: Compile | None) -> list[Trial]:
  """Returns the experiment as given, each change alone, and the first set of changes that fits.

  Sets are tried from cheap to dear. With a compiler, an estimate only decides which of them are
  worth compiling (TRIES at most), and none is once one fits.

  Args:
    config: the experiment.
    devices: their number.
    available: bytes of each.
    compiler: says what a configuration needs; without one, all is estimated.

  Raises:
    ConfigError: where the experiment as given is impossible on so many devices.
  """
  trials: list[Trial] = []
  for made in combinations(changes(config, devices)):
    found = any(trial.fits for trial in trials)
    if found and (len(made) > 1 or (compiler and trials[0].fits)):
      continue
    try:
      changed = with_changes(config, made)
      sizes = estimate(changed, devices, 'tpu' if compiler else 'gpu')
    except ConfigError:
      if made:
        continue
      raise
    total = sum(sizes.values())
    tries = sum(trial.seconds is not None for trial in trials)
    if compiler and not found and tries < TRIES and total <= HOPELESS * available:
      trial = _compile(compiler, changed, made, available)
    else:
      trial = Trial(made, sizes, total <= available)
    if len(made) <= 1 or trial.fits or trial.seconds is not None:
      trials.append(trial)
  return trials


def _compile(compiler: Compile, config: Config, made: tuple[Change, ...], available: int) -> Trial:
  print(f'vivit: compiling {names(made)} ...', file=sys.stderr, flush=True)
  start = time.monotonic()
  sizes, refusal = compiler(config)
  seconds = time.monotonic() - start
  print(f'vivit: {refusal or "compiled"}, {seconds:.0f} s', file=sys.stderr, flush=True)
  return Trial(made, sizes, bool(sizes) and sum(sizes.values()) <= available, seconds, refusal)


def names(made: tuple[Change, ...]) -> str:
  """Returns changes in words."""
  return ' + '.join(change.name for change in made) or 'as given'
