# SPDX-License-Identifier: Apache-2.0
"""The encoders beyond ViViT as settings of small models, and one of them as slow, obvious NumPy."""

import math

import numpy as np

from vivit_jax.weights.recipes import ARCHITECTURES

# Small models of each family: the published settings, with what the tests' sizes need. The cap is
# small enough to act on random weights; rotary positions need heads of 6 channels.
_SMALL = {
  'videoprism': {'pooler_width': 32, 'logit_cap': 2.0},
  'videomae': {},
  'timesformer': {},
  'vjepa2': {'pooler_layers': 1, 'heads': 2},
}
FAMILIES = {
  name: {k: v for k, v in (settings | {'gelu': 'exact'} | _SMALL[name]).items() if k != 'patch'}
  for name, settings in ARCHITECTURES.items()
}


def vjepa2_tokens(params, video, interleaved, pretrained_grid=None):
  """Returns the tokens [B, T * S, D] of V-JEPA 2 or 2.1, from its program's formulas in float64.

  Args:
    params: nested, under our names, of a model of pooling `none`.
    video: [B, F, H, W, 3].
    interleaved: sines are repeated for the two channels of a pair (2.1), not tiled (2).
    pretrained_grid: to which rows and columns are scaled: 2.1's interpolate_rope.
  """
  kernel = params['tokenizer']['kernel'].astype(np.float64)
  t, h, w, _, width = kernel.shape
  b, frames, height, wide, _ = video.shape
  grid = (frames // t, height // h, wide // w)
  cut = video.astype(np.float64).reshape(b, grid[0], t, grid[1], h, grid[2], w, 3)
  x = np.einsum('bTtHhWwc,thwcd->bTHWd', cut, kernel) + params['tokenizer']['bias']
  x = x.reshape(b, -1, width)
  places = [p.reshape(-1).astype(np.float64) for p in np.indices(grid)]
  if pretrained_grid is not None:
    for axis in (1, 2):
      places[axis] = places[axis] * (pretrained_grid - 1) / (grid[axis] - 1)
  stage = params['spacetime']
  for layer in range(sum(name.startswith('block_') for name in stage)):
    block = stage[f'block_{layer}']
    y = _norm(x, block['attention_norm'])
    q, k, v = (
      np.einsum('bnd,dhe->bhne', y, block['attention'][name]['kernel'])
      + block['attention'][name]['bias'][:, None]
      for name in ('query', 'key', 'value')
    )
    q, k = (_rotated(z, places, interleaved) for z in (q, k))
    scores = np.einsum('bhqe,bhke->bhqk', q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights = weights / weights.sum(axis=-1, keepdims=True)
    out = block['attention']['out']
    x = x + np.einsum('bhqk,bhke,hed->bqd', weights, v, out['kernel'], optimize=True) + out['bias']
    mlp = block['mlp']
    y = _norm(x, block['mlp_norm']) @ mlp['hidden']['kernel'] + mlp['hidden']['bias']
    y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    x = x + y @ mlp['out']['kernel'] + mlp['out']['bias']
  return _norm(x, stage['norm'])


def _rotated(z, places, interleaved):
  dim = z.shape[-1]
  part = 2 * ((dim // 3) // 2)
  pieces = []
  for axis, place in enumerate(places):
    x = z[..., axis * part : (axis + 1) * part]
    omega = 1.0 / 10000 ** (np.arange(part // 2) / (part / 2.0))
    angle = place[:, None] * omega
    spread = np.repeat(angle, 2, axis=-1) if interleaved else np.concatenate([angle, angle], -1)
    across = np.empty_like(x)
    across[..., 0::2], across[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    pieces.append(x * np.cos(spread) + across * np.sin(spread))
  return np.concatenate([*pieces, z[..., 3 * part :]], axis=-1)


def _norm(x, params):
  centered = x - x.mean(axis=-1, keepdims=True)
  deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-6)
  return centered / deviation * params['scale'] + params['bias']
