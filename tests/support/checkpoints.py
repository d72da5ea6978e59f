# SPDX-License-Identifier: Apache-2.0
"""Trees to restore into, and files that a save must not leave."""

from pathlib import Path

import jax


def abstract(tree):
  """Returns the shapes of a state, all on one device."""
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree)


def leftovers(folder: Path) -> list[str]:
  """Returns the names that are no steps."""
  if not folder.exists():
    return []
  return sorted(path.name for path in folder.iterdir() if 'tmp' in path.name)
