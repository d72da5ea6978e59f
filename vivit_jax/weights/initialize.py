# SPDX-License-Identifier: Apache-2.0
"""Initializes a video model from an image model or another video model (paper section 3.4).

A table lists the origin of every parameter.
"""

import math
import re

import numpy as np

from vivit_jax.config.schema import Init, Model
from vivit_jax.errors import CheckpointError, closest
from vivit_jax.weights.origins import Origin, ParameterOrigin
from vivit_jax.weights.positions import resize_positions
from vivit_jax.weights.readers import Flat
from vivit_jax.weights.source import Grid, Source, check_shapes, shapes, tokens

SCENIC = Init(positions='scenic', temporal_attention='copy', spatial_cls='init', head='init')


def initialize(
  fresh: Flat,
  model: Model,
  grid: Grid,
  source: Source,
  options: Init | None = None,
) -> tuple[Flat, list[ParameterOrigin]]:
  """Returns parameters initialized from a source where possible, and the origin of each.

  Tubelet kernels are made from 2D patches by model.tubelet_init: `central_frame` (equation 9, index
  t // 2), `inflation` (equation 8, divided by t); `random` keeps the initial kernel.

  Args:
    fresh: the model's complete initial parameters.
    model: architecture of the model to initialize.
    grid: its tokens along time, height and width.
    source: an image model, or a video model with the same attention. A spatio_temporal model can
      also initialize factorised_self_attention and factorised_dot_product.
    options: choices in which implementations differ.

  Raises:
    CheckpointError: width, depth, heads or patches differ; has the values of both sides.
  """
  options = options or Init()
  classes = fresh['head/bias'].size if 'head/bias' in fresh else 0
  check_shapes(source.path, fresh, shapes(model, grid, classes))
  _check_models(source, model)
  merge = _Merge(fresh, model, grid, source, options)
  for name in fresh:
    merge.parameter(name)
  return merge.params, merge.rows + merge.left_over()


def initialize_decoder(fresh: Flat, source: Source) -> tuple[Flat, list[ParameterOrigin]]:
  """Returns the decoder of masked pretraining as the source has it, or fresh if it has none.

  Args:
    fresh: the decoder's own initial parameters, by `decoder/...`.
    source: what the rest of the model starts from.

  Raises:
    CheckpointError: a decoder of another size, naming a parameter and both shapes.
  """
  if not source.decoder:
    note = 'the source has none'
    rows = [ParameterOrigin('fresh', n, None, a.shape, note=note) for n, a in fresh.items()]
    return fresh, rows
  expected = {name: array.shape for name, array in fresh.items()}
  check_shapes(source.path, source.decoder, expected)
  rows = [ParameterOrigin('taken', n, n, shape, shape) for n, shape in expected.items()]
  return dict(source.decoder), rows


def _check_models(source: Source, model: Model) -> None:
  theirs = source.model
  pairs = {
    'width': (theirs.width, model.width),
    'layers': (theirs.layers, model.layers),
    'heads': (theirs.heads, model.heads),
    'mlp_dim': (theirs.mlp_dim, model.mlp_dim),
    'patch height and width': (theirs.patch[1:], model.patch[1:]),
  }
  two = theirs.attention.startswith('factorised_encoder')
  if two and theirs.temporal_layers and model.temporal_layers:
    pairs['temporal_layers'] = (theirs.temporal_layers, model.temporal_layers)
  for what, (held, wanted) in pairs.items():
    if held != wanted:
      raise CheckpointError(source.path, f'has {what} {held}, the model to initialize {wanted}')
  # Settings that change the outputs but not the shapes of tensors.
  for what in ('positions', 'rotary_grid', 'logit_cap', 'time_dense'):
    held, wanted = getattr(theirs, what), getattr(model, what)
    if held != wanted and source.kind == 'video':
      raise CheckpointError(
        source.path,
        f'has {what} {held!r}, the model to initialize {wanted!r}: set '
        f'config.model.{what}={held!r}',
      )
  mixed = len({a.startswith('factorised_encoder') for a in (theirs.attention, model.attention)}) > 1
  if source.kind == 'video' and mixed:
    raise CheckpointError(
      source.path,
      f'is {theirs.attention}, which cannot initialize {model.attention}, since only one of them '
      'has two transformers; start from an image model',
    )


class _Merge:
  """State of an initialization: the parameters and the rows of the table so far."""

  def __init__(self, fresh: Flat, model: Model, grid: Grid, source: Source, options: Init):
    self.model, self.source, self.options = model, source, options
    self.params = dict(fresh)
    self.rows: list[ParameterOrigin] = []
    self.used: set[str] = set()
    self.tokens = tokens(model, grid)
    self.source_tokens = tokens(source.model, source.grid)
    # The stage of the source for each stage of the model.
    main = 'spatial' if 'spatial' in self.source_tokens else 'spacetime'
    self.stage = {'spacetime': main, 'spatial': main, 'temporal': 'temporal', 'pooler': 'pooler'}

  def parameter(self, name: str) -> None:
    """Loads one parameter from the source, changes it if necessary, and records its origin."""
    stage, _, rest = name.partition('/')
    if stage == 'tokenizer':
      self.kernel(name) if rest == 'kernel' else self.take(name, name)
    elif stage == 'head':
      self.head(name)
    elif rest == 'position':
      self.position(name, stage, self.stage[stage])
    elif rest == 'time_position':
      self.position(name, f'{stage}/time', f'{self.stage[stage]}/time')
    elif rest == 'cls' and stage == 'spatial' and self._cls_dropped():
      self.keep(name, "Scenic's option drops the image's cls")
    else:
      self.layer(name, f'{self.stage[stage]}/{rest}')

  def layer(self, name: str, source_name: str) -> None:
    """Loads cls, norms and blocks; spatial or temporal attention may come from joint attention."""
    params, copied = self.source.params, self.options.temporal_attention == 'copy'
    if source_name in params:
      return self.take(name, source_name)
    plain = re.sub('_(space|time)/', '/', source_name)
    if plain == source_name or plain not in params:
      return self.keep(name, 'the source has none')
    if '_space/' in name or (copied and '/attention_time/' in name):
      return self.take(name, plain)
    if '/attention_time/out/' in name and not copied:
      return self.put('fresh', name, np.zeros_like(self.params[name]), None, 'zero projection')
    return self.keep(name, 'the source has no temporal attention')

  def kernel(self, name: str) -> None:
    held, shape = self.source.params[name], self.params[name].shape
    t, kind = shape[0], self.model.tubelet_init
    if held.shape == shape:
      return self.take(name, name)
    if held.shape[0] != 1:
      raise CheckpointError(
        self.source.path,
        f'{name} has shape {held.shape}, the model to initialize {shape}: only 2D patches can be '
        'extended in time',
      )
    if kind == 'random':
      return self.keep(name, 'tubelet_init is random')
    kernel = np.zeros(shape, np.float32)
    if kind == 'inflation':
      kernel[:] = held / t
    else:
      kernel[t // 2] = held[0]
    return self.put('resized', name, kernel, name, kind)

  def position(self, name: str, stage: str, from_stage: str) -> None:
    """Resizes the grid of positions; copies the position of the cls token if both have one."""
    source_name = f'{from_stage.partition("/")[0]}/{name.rpartition("/")[2]}'
    method = self.options.positions
    if method == 'init':
      return self.keep(name, 'init.positions is init')
    if source_name not in self.source.params or from_stage not in self.source_tokens:
      return self.keep(name, 'the source has none')
    held, shape = self.source.params[source_name][0], self.params[name].shape
    cls = held.shape[0] - math.prod(self.source_tokens[from_stage])
    wanted_cls = shape[1] - math.prod(self.tokens[stage])
    source, target = self.source_tokens[from_stage], self.tokens[stage]
    if len(source) > len(target):  # an image's (1, H, W) for a stage over (H, W)
      source = source[1:]
    grid = resize_positions(held[cls:], source, target, method)
    first = held[:1] if cls else self.params[name][0, :1]
    position = np.concatenate([first, grid])[None] if wanted_cls else grid[None]
    if held.shape == position.shape[1:] and cls == wanted_cls and source == target:
      return self.take(name, source_name)
    note = f'{"x".join(map(str, source))} -> {"x".join(map(str, target))} tokens'
    if cls != wanted_cls:
      note += ", cls's position " + ('fresh' if wanted_cls else 'dropped')
    return self.put('resized', name, position, source_name, note)

  def head(self, name: str) -> None:
    choice, held = self.options.head, self.source.params.get(name)
    same = held is not None and held.shape == self.params[name].shape
    if choice == 'load' and not same:
      shape = None if held is None else held.shape
      raise CheckpointError(
        self.source.path,
        f'{name} has shape {shape}, the model to initialize {self.params[name].shape}',
      )
    if choice == 'init' or not same or (choice == 'auto' and self.source.kind == 'image'):
      own = 'of images' if self.source.kind == 'image' else f'for {self.source.classes} classes'
      return self.keep(
        name, f"the source's is {own}" if held is not None else 'the source has none'
      )
    return self.take(name, name)

  def take(self, name: str, source_name: str) -> None:
    held = self.source.params.get(source_name)
    if held is None:
      return self.keep(name, 'the source has none')
    if held.shape != self.params[name].shape:
      raise CheckpointError(
        self.source.path,
        f'{source_name} has shape {held.shape}, {name} of the model to initialize '
        f'{self.params[name].shape}',
      )
    return self.put('taken', name, held, source_name)

  def keep(self, name: str, note: str) -> None:
    self.rows.append(ParameterOrigin('fresh', name, None, self.params[name].shape, note=note))

  def put(
    self, origin: Origin, name: str, array: np.ndarray, source_name: str | None, note: str = ''
  ) -> None:
    shape = None
    if source_name is not None:
      self.used.add(source_name)
      shape = self.source.params[source_name].shape
    self.params[name] = array
    self.rows.append(ParameterOrigin(origin, name, source_name, array.shape, shape, note))

  def left_over(self) -> list[ParameterOrigin]:
    """Returns a row for each unused parameter of the source."""
    return [
      ParameterOrigin('left over', name, closest(name, self.params), array.shape, array.shape)
      for name, array in self.source.params.items()
      if name not in self.used
    ]

  def _cls_dropped(self) -> bool:
    return self.options.spatial_cls == 'init' and self.source.kind == 'image'
