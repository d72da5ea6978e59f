# SPDX-License-Identifier: Apache-2.0
"""ViViT (Arnab et al. 2021, sections 3.1 to 3.4) as an oracle: slow, obvious float64 NumPy."""

# Written from the equations, sharing no code with vivit_jax. Every attention, factorised or not, is
# one function: each head has, for each token, the list of the tokens that it may look at.

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Params = dict[str, Any]  # nested, float64 arrays at the leaves
Array = np.ndarray
Neighbours = Sequence[Sequence[int]]  # for each token, the tokens it attends to
Block = Callable[[Array, Params], Array]

EPSILON = 1e-6


def forward(
  params: Params,
  video: Array,
  *,
  attention: str,
  pooling: str,
  order: str = 'space_time',
  tokenizer: str = 'tubelet',
  sampled_frames: int | None = None,
) -> Array:
  """Logits [B, C] of videos [B, F, H, W, 3] in [-1, 1]; the settings are named as in the config."""
  if pooling not in ('cls', 'mean'):
    raise ValueError(f'pooling is {pooling!r}; use cls or mean')
  if order not in ('space_time', 'time_space'):
    raise ValueError(f'order is {order!r}; use space_time or time_space')
  params = _float64(params)
  logits = []
  for clip in np.asarray(video, np.float64):
    if tokenizer == 'uniform_frame_sampling':
      clip = clip[uniform_frames(len(clip), sampled_frames)]
    elif tokenizer != 'tubelet':
      raise ValueError(f'tokenizer is {tokenizer!r}; use tubelet or uniform_frame_sampling')
    tokens = tubelets(clip, params['tokenizer'])
    representation = _video_representation(tokens, params, attention, pooling, order)
    logits.append(representation @ params['head']['kernel'] + params['head']['bias'])
  return np.stack(logits)


# Section 3.2: tokens of a video.


def uniform_frames(frames: int, sampled: int | None) -> list[int]:
  """Indices of the `sampled` frames, evenly spaced inside the clip; every frame if it is short."""
  if sampled is None:
    raise ValueError('uniform_frame_sampling needs sampled_frames')
  if sampled >= frames:
    return list(range(frames))
  return [round(i * frames / (sampled + 1)) for i in range(1, sampled + 1)]


def tubelets(clip: Array, params: Params) -> Array:
  """Non-overlapping tubelets of [F, H, W, 3], each projected to D: [T, rows, columns, D]."""
  kernel = params['kernel']
  t, h, w, _, width = kernel.shape
  grid = [size // step for size, step in zip(clip.shape, (t, h, w), strict=False)]
  tokens = np.zeros((*grid, width))
  for time in range(grid[0]):
    for row in range(grid[1]):
      for column in range(grid[2]):
        tubelet = clip[
          time * t : (time + 1) * t, row * h : (row + 1) * h, column * w : (column + 1) * w
        ]
        for feature in range(width):
          tokens[time, row, column, feature] = np.sum(tubelet * kernel[..., feature])
  return tokens + params['bias']


# Section 3.3: the four models. Tokens of a frame are in row-major order, frames in time order.


def _video_representation(
  tokens: Array, params: Params, attention: str, pooling: str, order: str
) -> Array:
  times, rows, columns, width = tokens.shape
  frames = tokens.reshape(times, rows * columns, width)
  if attention == 'factorised_encoder':  # model 2
    return _factorised_encoder(frames, params, pooling)
  sequence = frames.reshape(times * rows * columns, width)
  if attention == 'spatio_temporal':  # model 1
    return _stage(sequence, params['spacetime'], pooling, _joint_block)
  if pooling == 'cls':
    raise ValueError(f'{attention} has no cls token (section 3.3); use mean pooling')

  place = [(time, space) for time in range(times) for space in range(rows * columns)]
  same_frame = [[k for k, (t, _) in enumerate(place) if t == time] for time, _ in place]
  same_location = [[k for k, (_, s) in enumerate(place) if s == space] for _, space in place]

  def serial_block(z: Array, block: Params) -> Array:  # model 3, equations 4 to 6
    for axis in order.split('_'):
      neighbours = {'space': same_frame, 'time': same_location}[axis]
      normed = layer_norm(z, block[f'attention_norm_{axis}'])
      weights = block[f'attention_{axis}']
      z = z + multi_head_attention(normed, weights, [neighbours] * _heads(weights))
    return z + mlp(layer_norm(z, block['mlp_norm']), block['mlp'])

  def split_heads_block(z: Array, block: Params) -> Array:  # model 4: half of the heads each
    half = _heads(block['attention']) // 2
    return _pre_norm_block(z, block, [same_location] * half + [same_frame] * half)

  if attention == 'factorised_self_attention':
    return _stage(sequence, params['spacetime'], pooling, serial_block)
  if attention == 'factorised_dot_product':
    return _stage(sequence, params['spacetime'], pooling, split_heads_block)
  raise ValueError(f'attention is {attention!r}, which is none of the four models')


def _factorised_encoder(frames: Array, params: Params, pooling: str) -> Array:
  """Each frame on its own through the spatial stage, then the frames through the temporal one."""
  summaries = [_stage(frame, params['spatial'], pooling, _joint_block) for frame in frames]
  if 'temporal' not in params:
    return np.mean(summaries, axis=0)
  return _stage(np.stack(summaries), params['temporal'], pooling, _joint_block)


def _stage(tokens: Array, params: Params, pooling: str, block: Block) -> Array:
  """Equation 1, the blocks in turn, the final layer norm, then one vector [D]."""
  if pooling == 'cls':
    tokens = np.concatenate([params['cls'][0], tokens])
  if params['position'].shape != (1, *tokens.shape):
    raise ValueError(f'position is {params["position"].shape}, the tokens are {tokens.shape}')
  z = tokens + params['position'][0]
  for index in range(sum(name.startswith('block_') for name in params)):
    z = block(z, params[f'block_{index}'])
  z = layer_norm(z, params['norm'])
  return z[0] if pooling == 'cls' else np.mean(z, axis=0)


def _joint_block(z: Array, params: Params) -> Array:
  """Every token looks at every token."""
  everyone = [range(len(z))] * len(z)
  return _pre_norm_block(z, params, [everyone] * _heads(params['attention']))


def _pre_norm_block(z: Array, params: Params, neighbours: Sequence[Neighbours]) -> Array:
  """Equations 2 and 3."""
  normed = layer_norm(z, params['attention_norm'])
  y = multi_head_attention(normed, params['attention'], neighbours) + z
  return mlp(layer_norm(y, params['mlp_norm']), params['mlp']) + y


# The layers, on tokens [N, D].


def multi_head_attention(z: Array, params: Params, neighbours: Sequence[Neighbours]) -> Array:
  """Equation 7 for each head, over its own neighbours[head][token]; heads are summed by `out`."""
  result = np.zeros_like(z)
  for head in range(_heads(params)):
    query, key, value = (
      z @ params[name]['kernel'][:, head] + params[name]['bias'][head]
      for name in ('query', 'key', 'value')
    )
    for token in range(len(z)):
      seen = neighbours[head][token]
      scores = np.array([query[token] @ key[other] for other in seen])
      weights = np.exp(scores / math.sqrt(query.shape[1]))
      weights = weights / np.sum(weights)
      mixed = sum(weight * value[other] for weight, other in zip(weights, seen, strict=True))
      result[token] += mixed @ params['out']['kernel'][head]
  return result + params['out']['bias']


def layer_norm(z: Array, params: Params) -> Array:
  result = np.zeros_like(z)
  for token, x in enumerate(z):
    centred = x - np.mean(x)
    normed = centred / math.sqrt(np.mean(centred**2) + EPSILON)
    result[token] = normed * params['scale'] + params['bias']
  return result


def mlp(z: Array, params: Params) -> Array:
  hidden = gelu(z @ params['hidden']['kernel'] + params['hidden']['bias'])
  return hidden @ params['out']['kernel'] + params['out']['bias']


def gelu(x: Array) -> Array:
  return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _heads(attention: Params) -> int:
  return attention['query']['kernel'].shape[1]


def _float64(tree: Params) -> Params:
  return {
    name: _float64(leaf) if isinstance(leaf, dict) else np.asarray(leaf, np.float64)
    for name, leaf in tree.items()
  }
