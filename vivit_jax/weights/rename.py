# SPDX-License-Identifier: Apache-2.0
"""Applies a table of names to a checkpoint, strictly, before arrays are loaded."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from vivit_jax.errors import CheckpointError, and_more, closest
from vivit_jax.weights.names import TRANSFORMS, Rule, Table
from vivit_jax.weights.readers import Flat

_NUMBER = '(0|[1-9][0-9]{0,4})'
Plan = dict[str, tuple[Rule, str]]  # their name -> its rule and the layer number ('' if none)


def plan(
  path: Path, names: Iterable[str], table: Table, head: bool = True
) -> tuple[Plan, dict[str, str]]:
  """Returns the rule for each name, and the ignored names with reasons.

  Args:
    path: path for messages.
    names: names of all arrays in the file.
    table: table of the format.
    head: whether to load the classifier; if not, its parameters are ignored.

  Raises:
    CheckpointError: a parameter is unknown or shows that the model is not supported.
  """
  known = [(re.compile(_pattern(rule.theirs)), rule) for rule in table.rules]
  found: Plan = {}
  unused: dict[str, str] = {}
  unknown = []
  for name in names:
    reason = _first(table.refused, name) or (_first(table.headless, name) if head else None)
    if reason:
      hint = '; to initialize a video model from it, leave the head out (head=False)'
      raise CheckpointError(
        path,
        f'{table.name}: {name!r} shows {reason}'
        + (hint if _first(table.headless, name) is not None else ''),
      )
    left_out = _first(table.unused, name) or _first(table.headless, name)
    if left_out:
      unused[name] = left_out
      continue
    for pattern, rule in known:
      if match := pattern.fullmatch(name):
        if rule.ours[0].startswith('head/') and not head:
          unused[name] = 'the head is not wanted'
        else:
          found[name] = (rule, match[1] if match.groups() else '')
        break
    else:
      unknown.append(name)
  if unknown:
    raise CheckpointError(path, f'{table.name}: unknown parameters {_with_nearest(unknown, table)}')
  return found, unused


def apply(path: Path, arrays: Flat, rules: Plan, heads: int) -> Flat:
  """Returns the arrays under our names; removes them from `arrays` to save memory.

  Raises:
    CheckpointError: a shape does not match its rule, or two names map to one parameter.
  """
  ours: Flat = {}
  for name, (rule, layer) in rules.items():
    array = arrays.pop(name)
    try:
      parts = TRANSFORMS[rule.transform].forward(array, heads)
    except (ValueError, IndexError):
      raise CheckpointError(
        path,
        f'{name!r} has shape {array.shape}, but {rule.transform} with {heads} heads was expected',
      ) from None
    for target, part in zip(rule.ours, parts, strict=True):
      target = target.replace('{i}', layer)
      if target in ours:
        raise CheckpointError(path, f'{name!r} is a second name for {target}')
      ours[target] = np.ascontiguousarray(part)
  return ours


def invert(params: Flat, table: Table) -> Flat:
  """Returns our parameters with the names and layout of another format, for writing.

  Raises:
    KeyError: the format does not have a parameter; callers check the model first.
  """
  rules: dict[str, Rule] = {}
  for rule in table.rules:
    for ours in rule.ours:
      rules.setdefault(ours, rule)
  found: dict[str, tuple[Rule, dict[str, np.ndarray]]] = {}
  for name, array in params.items():
    layer = re.search(r'/block_([0-9]+)/', name)
    ours = re.sub(r'/block_[0-9]+/', '/block_{i}/', name)
    rule = rules[ours]
    target = rule.theirs.replace('{i}', layer[1] if layer else '')
    found.setdefault(target, (rule, {}))[1][ours] = array
  theirs = {}
  for target, (rule, parts) in found.items():
    backward = TRANSFORMS[rule.transform].backward
    if backward is None:
      raise KeyError(rule.transform)
    theirs[target] = np.ascontiguousarray(backward(*(parts[ours] for ours in rule.ours)))
  return theirs


def zero_biases(params: Flat) -> Flat:
  """Returns zero biases for query, key and value where a model has none, which is equivalent."""
  return {
    name.replace('/kernel', '/bias'): np.zeros(array.shape[1:], np.float32)
    for name, array in params.items()
    if re.search(r'/(query|key|value)/kernel$', name)
    and name.replace('/kernel', '/bias') not in params
  }


def _pattern(theirs: str) -> str:
  return re.escape(theirs).replace(re.escape('{i}'), _NUMBER)


def _first(patterns: Mapping[str, str], name: str) -> str | None:
  return next((why for glob, why in patterns.items() if fnmatch.fnmatchcase(name, glob)), None)


def _with_nearest(unknown: list[str], table: Table) -> str:
  parts = []
  for name in unknown[:5]:  # comparison is slow
    number = re.search(r'[0-9]+', name)
    known = [rule.theirs.replace('{i}', number[0] if number else '0') for rule in table.rules]
    close = closest(name, known)
    parts.append(f'{name!r} (nearest known: {close!r})' if close else f'{name!r}')
  return and_more([*parts, *unknown[5:]])
