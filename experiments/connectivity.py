# SPDX-License-Identifier: Apache-2.0
"""Plots the connectivity of one block of each ViViT: Jacobian of an output token by all inputs."""

# Run from the repository root: python experiments/connectivity.py [docs/connectivity.png]

import sys
from pathlib import Path

import einops
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from vivit_jax.config.schema import Model
from vivit_jax.model.attention import TIME
from vivit_jax.model.stages import stages
from vivit_jax.model.transformer import Block, Series

GRID = (4, 5, 5)  # T, H, W in tokens
TOKEN = (1, 2, 2)  # the output token looked at
INK, EMPTY, EDGE, MARK = '#1d4f91', '#f1f3f6', '#c3cad5', '#e4572e'
TEXT, FAINT = '#22262d', '#69717d'

JOINT = stages(Model(attention='spatio_temporal'))[0]
SPATIAL = stages(Model(attention='factorised_encoder'))[0]
SERIAL = stages(Model(attention='factorised_self_attention'))[0]
DOT_PRODUCT = stages(Model(attention='factorised_dot_product'))[0]
PANELS: dict[str, tuple[str, Series, str]] = {
  'space': (SPATIAL.pattern, SPATIAL.series, 'its own frame\n(factorised encoder)'),
  'time': (SPATIAL.pattern, ((TIME,),), 'its own place in every frame\n(a part of the two below)'),
  'jointly': (JOINT.pattern, JOINT.series, 'every token, in one attention\n(spatio-temporal)'),
  'space, then time': (
    SERIAL.pattern,
    SERIAL.series,
    'every token, by way of its place in each frame\n(factorised self-attention)',
  ),
  'half the heads each': (
    DOT_PRODUCT.pattern,
    DOT_PRODUCT.series,
    'its own frame and its own place\n(factorised dot-product attention)',
  ),
}


def connectivity(
  pattern: str, series: Series, grid: tuple[int, int, int], token: tuple[int, int, int]
) -> np.ndarray:
  """Returns how strongly one output token of a block depends on each input token.

  Args:
    pattern: how the token grid is laid out for the block (einops, see vivit.Stage).
    series: the block's attentions (see transformer.Series).
    grid: T, H, W in tokens.
    token: t, h, w of the output token.

  Returns:
    [T, H, W], the norm of the Jacobian's block of each input token; 0 where nothing connects.
  """
  block = Block(Model(layers=1, width=16, mlp_dim=32, heads=4), series)
  times, rows, columns = grid
  shape = (1, times, rows * columns, 16)
  key = jax.random.key(0)

  def laid_out(x: jax.Array) -> jax.Array:
    return einops.rearrange(x, pattern)

  params = jax.eval_shape(lambda x: block.init(key, laid_out(x)), jnp.zeros(shape))
  # Random everywhere: fresh parameters hide the time attention, whose output begins at zero.
  params = jax.tree.map(lambda leaf: 0.3 * jax.random.normal(key, leaf.shape), params)

  def output(x: jax.Array) -> jax.Array:
    t, h, w = token
    y = jnp.asarray(block.apply(params, laid_out(x))).reshape(shape)
    return y[0, t, h * columns + w]

  jacobian = jax.jit(jax.jacrev(output))(jax.random.normal(key, shape))
  return np.sqrt(np.square(jacobian).sum(axis=(0, 1, -1))).reshape(grid)


def draw_frames(axes, strength: np.ndarray, token: tuple[int, int, int]) -> None:
  """Draws [T, H, W] as a row of tilted frames, time to the right, the output token outlined."""
  times, rows, columns = strength.shape
  slant, squeeze, gap = 0.42, 0.62, 1.25  # of a token's side; a frame is seen from its left
  others = strength.copy()
  others[token] = 0.0  # the residual path makes the token itself much the strongest
  shade = np.sqrt(others / others.max())
  shade[token] = 1.0

  def corner(t: float, h: float, w: float) -> tuple[float, float]:
    return t * (columns * squeeze + gap) + w * squeeze, -h + w * slant

  cells, colours = [], []
  for t, h, w in np.ndindex(times, rows, columns):
    ends = ((h, w), (h, w + 1), (h + 1, w + 1), (h + 1, w))
    cells.append([corner(t, *end) for end in ends])
    colours.append(MARK if (t, h, w) == token else _blend(shade[t, h, w]))
  axes.add_collection(PolyCollection(cells, facecolors=colours, edgecolors=EDGE, linewidths=0.6))
  for t in range(times):
    axes.text(*corner(t, rows + 1.0, columns / 2 - 0.9), f't={t + 1}', fontsize=8, color=FAINT)
  axes.set_aspect('equal')
  axes.autoscale_view()
  axes.axis('off')


def _blend(share: float) -> tuple[float, ...]:
  """Returns pale grey where nothing connects, else blue from light to dark."""
  if share == 0.0:
    return _rgb(EMPTY)
  share = 0.3 + 0.7 * share
  return tuple(
    (1 - share) * pale + share * ink for pale, ink in zip((1.0,) * 3, _rgb(INK), strict=True)
  )


def _rgb(colour: str) -> tuple[float, ...]:
  return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def draw() -> Figure:
  """Returns the figure, one panel per pattern of attention."""
  figure = Figure(figsize=(9, 5.2), facecolor='white')
  FigureCanvasAgg(figure)
  panels = figure.subplot_mosaic(
    'AABBCC\n.DDEE.',
    gridspec_kw={'left': 0.01, 'right': 0.99, 'bottom': 0.12, 'top': 0.86, 'hspace': 0.75},
  )
  for axes, (title, (pattern, series, caption)) in zip(
    panels.values(), PANELS.items(), strict=True
  ):
    draw_frames(axes, connectivity(pattern, series, GRID, TOKEN), TOKEN)
    axes.set_title(title, fontsize=12, fontweight='bold', color=TEXT)
    axes.text(
      0.5, -0.13, caption, transform=axes.transAxes, ha='center', va='top', fontsize=9.5, color=TEXT
    )
  figure.text(
    0.5, 0.95, 'What the orange token sees in one block: all inputs that change its output',
    ha='center', fontsize=11, color=FAINT,
  )  # fmt: skip
  return figure


if __name__ == '__main__':
  target = Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/connectivity.png')
  target.parent.mkdir(parents=True, exist_ok=True)
  draw().savefig(target, dpi=150)
