# SPDX-License-Identifier: Apache-2.0
"""The recipes of configs/, as tests load them."""

import functools
import runpy
from pathlib import Path

from vivit_jax.config.parse import parse

CONFIGS = Path(__file__).parent.parent.parent / 'configs'


@functools.cache
def recipe_file(name):
  return runpy.run_path(str(CONFIGS / f'{name}.py'))['get_config']


@functools.cache
def recipe(name, *parts):
  variant = ','.join(part for part in parts if part)
  return parse(recipe_file(name)(*([variant] if variant else [])).to_dict())
