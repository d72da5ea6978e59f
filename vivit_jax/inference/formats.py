# SPDX-License-Identifier: Apache-2.0
"""Export formats by name; each format's dependencies are imported only when needed."""

import importlib
from collections.abc import Callable

from vivit_jax.errors import ConfigError, nearest

MODULES = {'onnx': 'onnx_export', 'stablehlo': 'stablehlo', 'page': 'web_page'}


def writer(to: str) -> Callable[..., float]:
  """Returns the function `write(export, target)` of a format.

  Raises:
    ConfigError: the format does not exist, or its packages are not installed.
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
