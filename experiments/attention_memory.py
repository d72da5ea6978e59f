# SPDX-License-Identifier: Apache-2.0
"""Temporary memory of one attention layer with its gradient, as planned by XLA."""

# Run from the repository root: python experiments/attention_memory.py
# The figures are those of the backend that it runs on; an accelerator's own are others.

import argparse

import jax
import jax.numpy as jnp

from vivit_jax.model.kernels import attend

TOKENS = {32: 3_137, 64: 6_273, 128: 12_545, 256: 25_089}  # frames: of 224 x 224, tubelets 2x16x16


def temporary_bytes(kernel: str, tokens: int, heads: int) -> int:
  """Returns the planned bytes for one clip in float32; runs nothing."""
  shape = jax.ShapeDtypeStruct((1, tokens, heads, 64), jnp.float32)

  def total(*tensors: jax.Array) -> jax.Array:
    return attend(kernel, *tensors).sum()  # type: ignore[arg-type]

  compiled = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(shape, shape, shape).compile()
  analysis = compiled.memory_analysis()
  assert analysis is not None
  return analysis.temp_size_in_bytes


def main() -> None:
  """Prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--heads', type=int, default=12, help='of 64 (default: %(default)s, ViT-B)')
  heads = parser.parse_args().heads
  print(f'{jax.default_backend()}, one clip, {heads} heads of 64, float32')
  print(f'{"frames":>6}{"tokens":>9}{"plain MB":>12}{"blockwise MB":>14}{"ratio":>8}')
  for frames, tokens in TOKENS.items():
    plain, blockwise = (temporary_bytes(kernel, tokens, heads) for kernel in ('plain', 'blockwise'))
    print(
      f'{frames:6}{tokens:9,}{plain / 1e6:12,.0f}{blockwise / 1e6:14,.0f}{plain / blockwise:8.1f}'
    )


if __name__ == '__main__':
  main()
