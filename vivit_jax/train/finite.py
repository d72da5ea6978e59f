# SPDX-License-Identifier: Apache-2.0
"""Keeps numbers that are no numbers out of a training state."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

T = TypeVar('T')


def unless_finite(
  loss: Float[Array, ''], norm: Float[Array, ''], old: T, new: T
) -> tuple[T, Float[Array, '']]:
  """Returns the new tree where loss and norm of the gradient are finite, else the old one.

  It costs one select as the new tree is written. A finite gradient that overflows in the optimiser
  is found by the next loss, and by `all_finite` before anything is saved.

  Returns:
    The tree; 1 where it is the old one, else 0.
  """
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  kept = jax.tree.map(lambda before, after: jnp.where(finite, after, before), old, new)
  return kept, 1.0 - finite.astype(jnp.float32)


@jax.jit
def all_finite(state: Any) -> Bool[Array, '']:
  """Returns whether every number of a tree is finite."""
  return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state)]))
