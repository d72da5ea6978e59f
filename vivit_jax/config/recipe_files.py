# SPDX-License-Identifier: Apache-2.0
"""Finds, lists and copies the recipes of this package."""

import ast
from pathlib import Path

from vivit_jax.errors import ConfigError, nearest
from vivit_jax.files import replace_file

PACKAGE = Path(__file__).parents[1]
# A wheel has them inside the package; a clone (or editable install) has them beside it.
FOLDERS = (PACKAGE / 'configs', PACKAGE.parent / 'configs')


def recipes() -> dict[str, Path]:
  """Returns the recipe files by recipe name, e.g. kinetics400."""
  folder = next((folder for folder in FOLDERS if (folder / 'moving_digits.py').is_file()), None)
  if folder is None:
    return {}
  return {file.stem: file for file in sorted(folder.glob('*.py')) if file.stem != '__init__'}


def summary(file: Path) -> str:
  """Returns the first line of a recipe's docstring."""
  return (ast.get_docstring(ast.parse(file.read_text())) or '').partition('\n')[0]


def not_found(path: Path) -> str:
  """Returns the error message for a --config that is neither a file nor a recipe."""
  known = recipes()
  if path.stem in known:
    return f'--config={path} is not a file; the recipe of that name is --config={path.stem}'
  if path.parent != Path() or path.suffix:
    files = sorted(file.name for file in path.parent.glob('*.py')) if path.parent.is_dir() else []
    return f'--config={path} is not a file{nearest(path.name, files) if files else ""}'
  close = nearest(path.name, known)
  listed = '' if close.startswith('; choose') else f' The recipes are {", ".join(known)}.'
  return f'--config={path} is neither a file nor a recipe{close}{listed}'


def copy(name: str, target: Path) -> Path:
  """Copies a recipe to a file or into a folder and returns the new file.

  Raises:
    ConfigError: the recipe does not exist, or the target file already exists.
  """
  known = recipes()
  if name not in known:
    raise ConfigError(f'there is no recipe {name!r}{nearest(name, known)}')
  file = target / f'{name}.py' if target.is_dir() else target
  if file.exists():
    raise ConfigError(f'{file} exists: give another TARGET or delete the file first')
  if not file.parent.is_dir():
    raise ConfigError(f'{file.parent} is not a folder: create it first')
  replace_file(file, known[name].read_bytes())
  return file
