# SPDX-License-Identifier: Apache-2.0
"""Products with matrices of parameters, whose gradients leave them in a type of their own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def product(
  x: Float[Array, '*b i'], matrix: Float[Array | np.ndarray, 'i o'], gradient: str
) -> Float[Array, '*b o']:
  """Returns x @ matrix.

  Devices with other clips each have a part of the matrix's gradient, which XLA sums as it leaves
  the product. In half precision it would be rounded before that sum and after each addition.

  Args:
    x: tokens.
    matrix: of the same type.
    gradient: type in which the matrix's gradient is summed over rows and devices, if that is wider
      than the matrix's own, which it gets afterwards.
  """
  if jnp.promote_types(gradient, matrix.dtype) == matrix.dtype:
    return x @ jnp.asarray(matrix)
  return _product(x, jnp.asarray(matrix), gradient)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, matrix: jax.Array, gradient: str) -> jax.Array:
  return x @ matrix


def _gradients(gradient: str, kept: tuple[jax.Array, jax.Array], g: jax.Array) -> Any:
  x, matrix = kept
  rows = tuple(range(x.ndim - 1))
  whole = jax.lax.dot_general(x, g, ((rows, rows), ((), ())), preferred_element_type=gradient)
  return g @ matrix.T, whole.astype(matrix.dtype)


_product.defvjp(lambda x, matrix, gradient: (x @ matrix, (x, matrix)), _gradients)


def dense_product(gradient: str) -> Any:
  """Returns `product` as `flax.linen.Dense` wants its `dot_general`."""

  def dot_general(x: jax.Array, matrix: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product(x, matrix, gradient)

  return dot_general
