# SPDX-License-Identifier: Apache-2.0
"""Formats of exports by name; each imports only what it needs itself."""

import importlib
from collections.abc import Callable

from vivit_jax.errors import ConfigError, nearest

MODULES = {'onnx': 'onnx_export', 'stablehlo': 'stablehlo', 'page': 'web_page'}


def writer(to: str) -> Callable[..., float]:
  """Returns the function `write(export, target)` of a format.

  Raises:
    ConfigError: there is no such format, or what it needs is not installed.
  """
  if to not in MODULES:
    raise ConfigError(f'to={to!r} is not a choice{nearest(to, MODULES)}')
  try:
    return importlib.import_module(f'{__package__}.{MODULES[to]}').write
  except ModuleNotFoundError as error:
    if error.name is None or error.name.startswith('vivit_jax'):
      raise
    raise ConfigError(
      f'an export to {to} needs {error.name}: pip install "vivit_jax[export]"'
    ) from None
