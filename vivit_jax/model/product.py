# SPDX-License-Identifier: Apache-2.0
"""Matrix products with parameters, with a configurable type for the parameters' gradients."""

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

  Each data-parallel device has a part of the matrix's gradient, and XLA sums the parts in the type
  of the product's output. In half precision they would be rounded before and after each addition.

  Args:
    x: tokens.
    matrix: parameters of the same type as x.
    gradient: type in which the matrix's gradient is summed over rows and devices if it is wider
      than the matrix's type; the sum is then cast to the matrix's type.
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
  """Returns `product` in the form of the `dot_general` argument of `flax.linen.Dense`."""

  def dot_general(x: jax.Array, matrix: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product(x, matrix, gradient)

  return dot_general
