# SPDX-License-Identifier: Apache-2.0
"""Cost of a model, from its abstract program: parameters and multiply-adds."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp

from vivit_jax.config.schema import Clip
from vivit_jax.model.vivit import ViViT, abstract_params, apply, token_grid, video_shape


@dataclasses.dataclass(frozen=True)
class Cost:
  """Cost of one forward pass on one clip.

  Attributes:
    parameters: exact parameter count.
    gflops: 1e9 multiply-adds as the paper counts them, including elementwise operations: half of
      XLA's FLOP count, before compilation, for the unrolled float32 program.
    matmul_gflops: 1e9 multiply-adds of matrix products only, for utilization figures.
    parts: parameters and matmul_gflops by part of the model.
  """

  parameters: int
  gflops: float
  matmul_gflops: float
  parts: dict[str, dict[str, int | float]]


def model_cost(model: ViViT, clip: Clip) -> Cost:
  """Returns the cost of a model for clips of this size; compiles and allocates nothing."""
  # XLA counts the body of a scan only once, and the paper's figures are for float32.
  config = dataclasses.replace(
    model.config, scan=False, remat='none', dtype='float32', attention_kernel='plain'
  )
  model = model.clone(config=config)
  params, video = abstract_params(model, clip), video_shape(clip)

  forward = functools.partial(apply, model)
  if model.masked is not None:  # the encoder of the visible patches, and the decoder
    _, rows, columns = token_grid(model.config, video.shape)
    forward = functools.partial(apply, model, places=jnp.arange(rows * columns)[None])
  lowered = jax.jit(forward).lower(params, video)
  sizes: Counter[str] = Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    sizes[_part([entry.key for entry in path])] += leaf.size
  products: Counter[str] = Counter()
  for scope, multiply_adds in _matrix_products(jax.make_jaxpr(forward)(params, video).jaxpr):
    products[_part(scope.split('/')[1:])] += multiply_adds
  return Cost(
    parameters=sizes.total(),
    gflops=cast(Any, lowered.cost_analysis())['flops'] / 2e9,
    matmul_gflops=products.total() / 1e9,
    parts={
      part: {'parameters': size, 'matmul_gflops': products[part] / 1e9}
      for part, size in sizes.items()
    },
  )


def _part(path: list[str]) -> str:
  """Returns the part of the model that owns a parameter path or named scope."""
  names = [name for name in path if not name.startswith(('Block', 'block_', 'Head', 'Encoder'))]
  if names[0] in ('tokenizer', 'head'):
    return names[0]
  component = next((c for c in ('attention', 'mlp') if names[1] == c), names[1])
  component = 'norm' if 'norm' in component else component
  component = 'positions' if component in ('cls', 'position') else component
  return f'{names[0]}/{component}'


def _matrix_products(jaxpr: Any) -> Iterator[tuple[str, int]]:
  """Yields named scope and multiply-adds of every matrix product, also in inner jaxprs."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      depth = math.prod(shape[axis] for axis in contracted)
      scope = str(equation.source_info.name_stack)
      yield scope, depth * math.prod(equation.outvars[0].aval.shape)
    for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, 'jaxpr')):
      if hasattr(value, 'jaxpr'):
        yield from _matrix_products(value.jaxpr)
