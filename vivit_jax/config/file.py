# SPDX-License-Identifier: Apache-2.0
"""Turns an ml_collections file and command-line overrides into a checked `Config`."""

import ast
import dataclasses
import re
import runpy
import traceback
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from vivit_jax.config.model import ON_A_GRID
from vivit_jax.config.parse import check_views, convert, parse, required, setting_type
from vivit_jax.config.recipe_files import not_found, recipes
from vivit_jax.config.renamed import NAMES, unknown
from vivit_jax.config.schema import SIZES, Attention, Config
from vivit_jax.errors import ConfigError, nearest


def defaults() -> config_dict.ConfigDict:
  """Returns all settings with their defaults as a locked ConfigDict that config files modify.

  Settings that may be None are placeholders, so config files can set them.
  """
  return _section(Config()).lock()


def _section(section: Any) -> config_dict.ConfigDict:
  hints = typing.get_type_hints(type(section))
  tree = config_dict.ConfigDict()
  for field in dataclasses.fields(section):
    value = getattr(section, field.name)
    if dataclasses.is_dataclass(value):
      value = _section(value)
    elif value is None:
      value = config_dict.placeholder(_plain_type(hints[field.name]))
    tree[field.name] = value
  return tree


def _plain_type(hint: Any) -> type:
  """Returns the type of an optional setting without None: int for int | None."""
  kind = required(hint)
  return type(typing.get_args(kind)[0]) if typing.get_origin(kind) is typing.Literal else kind


def apply_variant(config: config_dict.ConfigDict, variant: str) -> config_dict.ConfigDict:
  """Sets size, patch and attention from a name such as `B/16x2,factorised_encoder`.

  Args:
    config: what `defaults()` returned.
    variant: `SIZE/PATCHxTUBELET[,ATTENTION]` with SIZE one of Ti, S, B, L, H.

  Raises:
    ConfigError: a part of the name is unknown.
  """
  name, _, attention = variant.partition(',')
  match = re.fullmatch(r'([A-Za-z]+)/(\d+)x(\d+)', name)
  if match is None or match[1] not in SIZES:
    raise ConfigError(
      f'{variant!r} is not a model name: write SIZE/PATCHxTUBELET[,ATTENTION], e.g. '
      f'B/16x2,factorised_encoder, with SIZE one of {", ".join(SIZES)}'
    )
  if attention:
    if attention not in typing.get_args(Attention):
      choices = typing.get_args(Attention)
      raise ConfigError(f'attention {attention!r} is unknown{nearest(attention, choices)}')
    config.model.attention = attention
    poolings = dict.fromkeys(ON_A_GRID, 'mean') | {'factorised_encoder_by_patch': 'attention'}
    config.model.pooling = poolings.get(attention, 'cls')
  config.model.update(dataclasses.asdict(SIZES[match[1]]))
  config.model.patch = (int(match[3]), int(match[2]), int(match[2]))
  return config


def load(arguments: Sequence[str]) -> Config:
  """Reads `--config=FILE[:VARIANT]` and `--config.section.name=value` overrides.

  FILE is a path or the name of a recipe of this package. If both exist, the file is used.

  Raises:
    ConfigError: in one line, for a missing file, a misspelt setting or an invalid value.
  """
  overrides = [a for a in arguments if a.startswith('--config.')]
  files = [a.partition('=')[2] for a in arguments if a.startswith('--config=')]
  if len(files) != 1 or not files[0]:
    raise ConfigError('give exactly one --config=FILE or recipe, e.g. --config=moving_digits')
  path, variant = _split_variant(files[0])
  if not path.is_file():
    recipe = recipes().get(str(path))
    if recipe is None:
      raise ConfigError(not_found(path))
    path = recipe
  tree = _run_file(path, variant)
  for override in overrides:
    _set(tree, override)
  return finish(parse(tree.to_dict()))


def finish(config: Config) -> Config:
  """Returns the config with environment-dependent settings resolved; raises ConfigError."""
  check_views(config.evaluate.temporal_views, config.evaluate.spatial_views, config.clip)
  root = config.data.root
  if root is None or '://' in root:
    return config
  # Absolute, so a run resumed or evaluated from another folder finds the same videos.
  root = str(Path(root).expanduser().absolute())
  return dataclasses.replace(config, data=dataclasses.replace(config.data, root=root))


def _split_variant(text: str) -> tuple[Path, str]:
  """Returns FILE and VARIANT of `FILE[:VARIANT]`; FILE may contain colons."""
  parts = text.split(':')
  for count in range(len(parts), 0, -1):
    path = Path(':'.join(parts[:count]))
    if path.is_file():
      return path, ':'.join(parts[count:])
  return Path(parts[0]), ':'.join(parts[1:])


def _run_file(path: Path, variant: str) -> config_dict.ConfigDict:
  """Returns the result of the file's `get_config(variant)`; no argument if `variant` is empty."""
  try:
    get_config = runpy.run_path(str(path)).get('get_config')
    tree = get_config(*([variant] if variant else [])) if callable(get_config) else None
  except ConfigError as error:
    raise ConfigError(f'--config={path}: {error}') from None
  except (Exception, SystemExit) as error:
    # The error is in the user's file: report its line, not a traceback through this package.
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    if isinstance(error, SyntaxError):
      lines.append(error.lineno)
    where = f' line {lines[-1]}' if lines else ''  # no line: get_config's arguments are wrong
    raise ConfigError(
      f'--config={path}{where}: {type(error).__name__}: {_one_line(error)}'
    ) from None
  if not isinstance(tree, config_dict.ConfigDict):
    raise ConfigError(f'--config={path} does not define a get_config() that returns defaults()')
  return tree


def _set(tree: config_dict.ConfigDict, override: str) -> None:
  """Applies `--config.section.name=value` to the tree.

  Raises:
    ConfigError: the setting does not exist, or the value is missing or invalid.
  """
  name, equals, text = override.removeprefix('--config.').partition('=')
  if not equals:
    raise ConfigError(f'{override} has no value: write {override}=VALUE')
  hint = setting_type(name)
  # Checked already here, because other settings may be computed from this one.
  value = convert(hint, _literal(text, hint), f'config.{name}')
  *sections, last = name.split('.')
  try:
    for section in sections:
      tree = tree[section]
    with tree.ignore_type():
      tree[last] = value
  except (KeyError, TypeError, AttributeError):
    raise ConfigError(
      f'{override}: the config file has no config.{name}: let its get_config() return defaults()'
    ) from None


BOOLEANS = {'true': True, 'false': False, '1': True, '0': False}


def _literal(text: str, hint: Any) -> Any:
  """Returns the text parsed as a literal of the setting's type, or the text itself."""
  kind = required(hint)
  if text == 'None' and kind is not hint:
    return None
  kind = kind.__origin__ if typing.get_origin(kind) is typing.Annotated else kind
  if kind is str or typing.get_origin(kind) is typing.Literal:
    return text
  if kind is bool:
    return BOOLEANS.get(text.lower(), text)
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def _one_line(error: BaseException) -> str:
  # ml_collections lists all fields of the section before its suggestion; drop the list.
  text = re.sub(r"^'(.*) Other fields present: .*\}\"(?:\\n)?(.*)'$", r'\1 \2', str(error))
  if isinstance(error, AttributeError | KeyError):  # locked section, without its name
    for old in NAMES:
      if re.search(rf'^\W*(Key ")?{old.rpartition(".")[2]}\b', text):
        return unknown(f'config.{old}', ())
  return ' '.join(text.split()) or type(error).__name__
