# SPDX-License-Identifier: Apache-2.0
"""Builds the four models as ONNX graphs, from the same table of stages."""

import math

import numpy as np
from jaxtyping import Float32
from onnx import ModelProto, TensorProto, helper

from vivit_jax import __version__
from vivit_jax.errors import CheckpointError
from vivit_jax.evaluate.predictions import Protocol
from vivit_jax.inference.onnx_graph import OPSET, Graph
from vivit_jax.inference.stages import check_plain, is_temporal
from vivit_jax.model.attention import TIME
from vivit_jax.model.stages import Stage, stages
from vivit_jax.model.tokenizer import sampled_frame_indices
from vivit_jax.model.transformer import AXIS_NAMES
from vivit_jax.weights.source import Source

Shape = tuple[int, ...]  # without the batch axis


def build_model(source: Source, protocol: Protocol, uint8: bool, batch: int | None) -> ModelProto:
  """Returns a model from `video` to `logits`, [B, classes] in float32.

  Args:
    source: parameters and architecture.
    protocol: normalization of pixels, for uint8 input.
    uint8: whether the input is RGB pixels 0 to 255, uint8 [B, F, H, W, 3]; otherwise float32
      values, normalized and in the channel order of the weights.
    batch: batch size; None = any.

  Raises:
    CheckpointError: a parameter belongs to an operation that is not supported here.
  """
  check_plain(source.model, 'ONNX files')
  graph = Graph(source.params)
  x = _values(graph, 'video', protocol) if uint8 else 'video'
  x, shape = _embed(graph, source, x)
  for stage in stages(source.model):
    x, shape = _encode(graph, source, stage, x, shape)
  if len(shape) == 2:
    x = graph.node('ReduceMean', x, graph.integers(1), keepdims=0)
  kernel = graph.param('head/kernel')
  # The output of the last node is the output of the model.
  product = graph.node('MatMul', x, kernel)
  bias = graph.param('head/bias')
  graph.nodes.append(helper.make_node('Add', [product, bias], ['logits'], name='logits'))
  if graph.unused:
    raise CheckpointError(
      f'{source.path} has parameters of an operation that cannot be exported to ONNX: '
      + ', '.join(graph.unused[:3])
    )
  size = 'batch' if batch is None else batch
  kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
  clip = (size, source.frames, source.height, source.width, 3)
  inputs = [helper.make_tensor_value_info('video', kind, clip)]
  outputs = [helper.make_tensor_value_info('logits', TensorProto.FLOAT, (size, source.classes))]
  made = helper.make_graph(graph.nodes, 'vivit', inputs, outputs, graph.constants)
  return helper.make_model(
    made,
    opset_imports=[helper.make_opsetid('', OPSET)],
    producer_name='vivit_jax',
    producer_version=__version__,
    ir_version=10,
  )


def _values(graph: Graph, pixels: str, protocol: Protocol) -> str:
  zero = np.array([0.0 - m / s for m, s in zip(protocol.mean, protocol.std, strict=True)])
  x = graph.node('Cast', pixels, to=TensorProto.FLOAT)
  if protocol.channels == 'bgr':
    x = graph.node('Gather', x, graph.integers(2, 1, 0), axis=4)
  x = graph.node('Div', x, graph.constant(np.float32(255.0)))
  scale = graph.constant(1 / np.array(protocol.std, np.float32))
  return graph.node('Add', graph.node('Mul', x, scale), graph.constant(zero.astype(np.float32)))


def _embed(graph: Graph, source: Source, x: str) -> tuple[str, Shape]:
  config, (time, rows, columns) = source.model, source.grid
  t, h, w = config.patch
  if config.sampled_frames is not None:
    chosen = sampled_frame_indices(source.frames, config.sampled_frames)
    x = graph.node('Gather', x, graph.integers(*chosen), axis=1)
  x = graph.reshape(x, -1, time, t, rows, h, columns, w, 3)
  x = graph.node('Transpose', x, perm=[0, 1, 3, 5, 2, 4, 6, 7])
  x = graph.reshape(x, -1, time, rows * columns, t * h * w * 3)
  x = graph.dense(x, 'tokenizer', t * h * w * 3, config.width)
  return x, (time, rows * columns, config.width)


def _encode(graph: Graph, source: Source, stage: Stage, x: str, shape: Shape) -> tuple[str, Shape]:
  config, width = source.model, source.model.width
  layers = config.temporal_layers if is_temporal(stage) else config.layers
  if '(t s)' in stage.pattern:
    shape = (math.prod(shape[:-1]), width)
    x = graph.reshape(x, -1, *shape)
  if config.pooling == 'cls':
    x, shape = _prepend_cls(graph, stage.name, x, shape)
  tokens = tuple(shape[axis] for axis in stage.token_axes)
  position = graph.param(f'{stage.name}/position', (*tokens, width))
  x = graph.node('Add', x, position)
  for layer in range(layers):
    x = _block(graph, source, stage, f'{stage.name}/block_{layer}', x, shape)
  x = _norm(graph, source, f'{stage.name}/norm', x)
  if config.pooling == 'cls':
    # A scalar index, because a list of one index would keep the axis.
    first = graph.constant(np.array(0, np.int64))
    return graph.node('Gather', x, first, axis=len(shape) - 1), (*shape[:-2], width)
  axes = [len(shape) + 1 + axis for axis in stage.token_axes]
  x = graph.node('ReduceMean', x, graph.integers(*axes), keepdims=0)
  return x, tuple(n for k, n in enumerate(shape, 1) if k not in axes)


def _prepend_cls(graph: Graph, stage: str, x: str, shape: Shape) -> tuple[str, Shape]:
  batch = graph.node('Shape', x, start=0, end=1)
  one = (*shape[:-2], 1, shape[-1])
  size = graph.node('Concat', batch, graph.integers(*one), axis=0)
  cls = graph.node('Expand', graph.param(f'{stage}/cls', (1,) * len(shape) + shape[-1:]), size)
  x = graph.node('Concat', cls, x, axis=len(shape) - 1)
  return x, (*shape[:-2], shape[-2] + 1, shape[-1])


def _block(graph: Graph, source: Source, stage: Stage, name: str, x: str, shape: Shape) -> str:
  config = source.model
  for axes in stage.series:
    suffix = '' if len(stage.series) == 1 else f'_{AXIS_NAMES[axes[0]]}'
    y = _norm(graph, source, f'{name}/attention_norm{suffix}', x)
    y = _attention(graph, source, axes, f'{name}/attention{suffix}', y, shape)
    x = graph.node('Add', x, y)
  y = _norm(graph, source, f'{name}/mlp_norm', x)
  y = graph.dense(y, f'{name}/mlp/hidden', config.width, config.mlp_dim)
  y = graph.node('Gelu', y, approximate='tanh' if config.gelu == 'tanh' else 'none')
  return graph.node('Add', x, graph.dense(y, f'{name}/mlp/out', config.mlp_dim, config.width))


def _norm(graph: Graph, source: Source, name: str, x: str) -> str:
  scale, bias = graph.param(f'{name}/scale'), graph.param(f'{name}/bias')
  epsilon = source.model.norm_epsilon
  return graph.node('LayerNormalization', x, scale, bias, axis=-1, epsilon=epsilon)


def _attention(
  graph: Graph, source: Source, axes: tuple[int, ...], name: str, x: str, shape: Shape
) -> str:
  """Adds attention in which each group of heads attends along one axis; x is [B, *shape]."""
  width, heads = source.model.width, source.model.heads
  dim, own = width // heads, heads // len(axes)
  parts = []
  for projection in ('query', 'key', 'value'):
    y = graph.dense(x, f'{name}/{projection}', width, width)
    if len(axes) == 1:
      parts.append([y])
      continue
    sizes = [own * dim] * len(axes)
    outputs = [f'{y}_{k}' for k in range(len(axes))]
    split = [y, graph.integers(*sizes)]
    graph.nodes.append(helper.make_node('Split', split, outputs, name=f'{y}_split', axis=-1))
    parts.append(outputs)
  scale = graph.constant(np.float32(1 / math.sqrt(dim)))
  groups = [
    _attend(graph, axis, scale, (*shape[:-1], own, dim), *qkv)
    for axis, *qkv in zip(axes, *parts, strict=True)
  ]
  whole = groups[0] if len(groups) == 1 else graph.node('Concat', *groups, axis=len(shape))
  return graph.dense(whole, f'{name}/out', width, width)


def _attend(
  graph: Graph, axis: int, scale: str, shape: Shape, query: str, key: str, value: str
) -> str:
  """Adds softmax(query key^T / sqrt(d)) value along one axis of [B, *tokens, heads, dim]."""
  rank = len(shape) + 1
  # Moves the attended axis right before dim, and the heads before it.
  along = rank - 4 if axis == TIME else rank - 3
  order = [k for k in range(rank) if k not in (along, rank - 2, rank - 1)]
  order += [rank - 2, along, rank - 1]
  back = [int(k) for k in np.argsort(order)]

  def split(y: str, perm: list[int]) -> str:
    return graph.node('Transpose', graph.reshape(y, -1, *shape), perm=perm)

  q = graph.node('Mul', split(query, order), scale)
  # Directly into the transposed layout of the matrix product.
  k = split(key, [*order[:-2], order[-1], order[-2]])
  weights = graph.node('Softmax', graph.node('MatMul', q, k), axis=-1)
  heads = graph.node('MatMul', weights, split(value, order))
  result = graph.node('Transpose', heads, perm=back)
  return graph.reshape(result, -1, *shape[:-2], shape[-2] * shape[-1])


def size_of(params: dict[str, Float32[np.ndarray, '...']]) -> int:
  """Returns the total size of the parameters in bytes."""
  return sum(value.nbytes for value in params.values())
