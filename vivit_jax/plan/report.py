# SPDX-License-Identifier: Apache-2.0
"""Prints a plan as a table or as JSON."""

import json

from vivit_jax.config.schema import Config
from vivit_jax.plan.search import Trial, names

GIB = 2**30

ESTIMATE = 'Estimates are from shapes, not from a device: docs/scale.md has their measured errors.'


def as_text(config: Config, devices: int, trials: list[Trial], available: int) -> str:
  """Returns the trials as a table, followed by the verdict."""
  width = max(len(names(trial.made)) for trial in trials) + 2
  lines = [
    f'one step of {config.train.batch_size} clips on {devices} devices with '
    f'{available / GIB:.1f} GiB available on each',
    '',
    f'{"change":{width}}{"GiB per device":>14}  {"fits":6}{"by":18}costs',
  ]
  for trial in trials:
    size = f'{sum(trial.sizes.values()) / GIB:.1f}' if trial.sizes else 'more'
    by = 'estimate' if trial.seconds is None else f'compiler, {trial.seconds:.0f} s'
    costs = trial.made[0].costs if len(trial.made) == 1 else ''
    fits = 'yes' if trial.fits else 'no'
    lines.append(f'{names(trial.made):{width}}{size:>14}  {fits:6}{by:18}{costs}'.rstrip())
  lines += [f'{names(t.made)}: {t.refusal}' for t in trials if t.refusal]
  shown = _best(trials) or trials[0]
  parts = ', '.join(f'{name} {size / GIB:.2f}' for name, size in shown.sizes.items() if size)
  if parts:
    lines += ['', f'{names(shown.made)}, GiB: {parts}']
  if any(trial.seconds is None for trial in trials):
    lines.append(ESTIMATE)
  return '\n'.join([*lines, '', verdict(trials)])


def verdict(trials: list[Trial]) -> str:
  """Returns in one line whether the step fits, and with which settings."""
  best = _best(trials)
  if best is None:
    return 'None of these changes makes it fit: use more devices, or shorter or smaller clips.'
  by = ' by the estimate' if best.seconds is None else ''
  if not best.made:
    return f'It fits{by} as given.'
  return f'It does not fit as given, but{by} with {" ".join(settings(best))}'


def settings(trial: Trial) -> list[str]:
  """Returns the command-line arguments for the changes."""
  merged = {path: value for change in trial.made for path, value in change.settings.items()}
  return [f'--config.{path}={value}' for path, value in merged.items()]


def as_json(trials: list[Trial], available: int) -> str:
  """Returns the trials as JSON."""
  best = _best(trials)
  rows = [
    {
      'changes': [change.name for change in trial.made],
      'settings': settings(trial),
      'bytes': trial.sizes,
      'total': sum(trial.sizes.values()) or None,
      'fits': trial.fits,
      'estimate': trial.seconds is None,
      'seconds': trial.seconds,
      'refusal': trial.refusal,
    }
    for trial in trials
  ]
  result = {'available': available, 'trials': rows, 'fits_with': settings(best) if best else None}
  return json.dumps(result, indent=1)


def _best(trials: list[Trial]) -> Trial | None:
  return next((trial for trial in trials if trial.fits), None)
