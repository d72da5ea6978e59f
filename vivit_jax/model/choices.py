# SPDX-License-Identifier: Apache-2.0
"""Messages about the attention kernel: why `auto` chose it, and why cuDNN's cannot run."""

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar

import jax

# GPUs older than Ampere (compute capability 8.0), for which cuDNN has no flash attention: Turing,
# Volta, Pascal and older, by their names at developer.nvidia.com/cuda-gpus.
BEFORE_AMPERE = re.compile(
  r'Tesla|Quadro(?! RTX A)|TITAN|GTX|\b(RTX 20\d\d|MX[1-4]\d\d|GT \d+|[TVPMK]\d+\S*)(?!\S)'
)


def cudnn_refusal(device: str, dtype: str, dim: int, cap: float | None = None) -> str:
  """Returns why cuDNN's attention cannot run, to complete a sentence, or '' if it can.

  Args:
    device: JAX's device kind.
    dtype: type of queries, keys and values.
    dim: head dimension.
    cap: cap of the attention logits, or None.
  """
  if not device.startswith(('NVIDIA', 'Tesla', 'Quadro')):
    return f'needs an NVIDIA GPU, not {device}'
  if BEFORE_AMPERE.search(device):
    return f'needs an NVIDIA GPU of the Ampere generation or later, not {device}'
  if dtype not in ('bfloat16', 'float16'):
    return f"needs config.model.dtype='bfloat16', not {dtype!r}"
  if dim > 128 or dim % 8:
    return f'needs a head dimension (width / heads) that is a multiple of 8 up to 128, not {dim}'
  return '' if cap is None else 'cannot cap logits'


# Choices of `auto` in the program that is being traced.
_noted: ContextVar[dict[str, None] | None] = ContextVar('noted', default=None)


@contextlib.contextmanager
def noting() -> Iterator[dict[str, None]]:
  """Collects the choices of `auto` while programs are traced, as unique lines in order."""
  lines: dict[str, None] = {}
  token = _noted.set(lines)
  try:
    yield lines
  finally:
    _noted.reset(token)


def note(
  kernel: str,
  device: str,
  query: jax.Array | jax.ShapeDtypeStruct,
  tokens: int,
  drops: bool,
  cap: float | None = None,
) -> None:
  """Records a choice and its reason if called within `noting`.

  Args:
    kernel: the chosen kernel.
    device: JAX's device kind.
    query: queries [..., tokens, heads, dim].
    tokens: number of keys.
    drops: whether attention weights have dropout.
    cap: cap of the attention logits, or None.
  """
  lines = _noted.get()
  if lines is not None:
    why = _reason(kernel, device, str(query.dtype), query.shape[-1], drops, cap)
    lines[f'attention of {tokens:,} tokens by the kernel {kernel!r}: {why}'] = None


def _reason(kernel: str, device: str, dtype: str, dim: int, drops: bool, cap: float | None) -> str:
  if kernel == 'cudnn':
    return f'{device} in {dtype}'
  if kernel in ('short', 'splash'):
    return f'{device}, {"fits" if kernel == "short" else "exceeds"} the vector memory'
  if drops:
    return 'config.model.attention_dropout needs the weights'
  few = 'few tokens' if kernel == 'plain' else 'many tokens'
  if device.startswith(('NVIDIA', 'Tesla', 'Quadro')):
    refusal = cudnn_refusal(device, dtype, dim, cap)
    return f'{few}; cudnn {refusal}' if refusal else few
  return f'{few}, and none of its own for {device}' if kernel == 'blockwise' else few
