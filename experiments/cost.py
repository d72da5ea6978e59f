# SPDX-License-Identifier: Apache-2.0
"""Computes the cost of models, for comparison with the paper's tables and Figures 7 to 9."""

# Run from the repository root: python experiments/cost.py [docs/cost.png]

import dataclasses
import functools
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vivit_jax.config.file import load
from vivit_jax.model.cost import Cost, model_cost
from vivit_jax.model.vivit import build

CONFIG = 'configs/kinetics400.py'
VIDEO = 250  # frames of a Kinetics video, of which every second is seen
MODELS = {
  'Model 1: spatio-temporal': 'spatio_temporal',
  'Model 2: factorised encoder': 'factorised_encoder',
  'Model 3: factorised self-attention': 'factorised_self_attention',
  'Model 4: factorised dot-product': 'factorised_dot_product',
}
ENCODER = 'factorised_encoder'
COLOURS = ('#1d4f91', '#e4572e', '#3a9d5d', '#8a5fb0')
TEXT, FAINT = '#22262d', '#69717d'


@functools.cache
def cost(variant: str, *overrides: str) -> Cost:
  """Returns the cost of a clip for a variant of the Kinetics config, with settings changed."""
  changes = [f'--config.{override}' for override in overrides]
  config = load([f'--config={CONFIG}:{variant}', *changes])
  return model_cost(build(config), config.clip)


@dataclasses.dataclass(frozen=True)
class Row:
  """One figure of the paper; where it gives less than four digits, its own rounding is in it."""

  table: str
  variant: str
  overrides: tuple[str, ...] = ()
  gflops: float | None = None
  millions: float | None = None
  views: int = 1


def size(pixels: int) -> tuple[str, ...]:
  """Returns the overrides for clips of another resolution."""
  return f'clip.height={pixels}', f'clip.width={pixels}'


LAYERS = {0: (283.9, 86.7), 1: (284.0, 93.8), 4: (284.4, 115.1), 8: (284.9, 143.4)}
LAYERS[12] = (285.3, 171.8)
ROWS = (
  Row('Table 2', 'B/16x2', gflops=455.2, millions=88.9),
  Row('Table 2', f'B/16x2,{ENCODER}', gflops=284.4, millions=115.1),
  Row('Table 2', 'B/16x2,factorised_self_attention', gflops=372.3, millions=117.3),
  Row('Table 2', 'B/16x2,factorised_dot_product', gflops=277.1, millions=88.9),
  *(
    Row('Table 3', f'B/16x2,{ENCODER}', (f'model.temporal_layers={layers}',), *paper)
    for layers, paper in LAYERS.items()
  ),
  *(
    Row('Table 5', 'L/16x2', size(pixels), gflops)
    for pixels, gflops in ((224, 1446), (288, 2919), (320, 3992))
  ),
  Row('section 4.2', f'L/16x2,{ENCODER}', gflops=995.3),
  Row('section 4.2', f'L/16x2,{ENCODER},frames_128', gflops=3980.4),
  Row('Table 6a', f'L/16x2,{ENCODER},frames_128', gflops=11940, views=3),
  Row('Table 6a', 'H/14x2', gflops=47770, views=12),
)


def comparison() -> str:
  """Returns the paper's figures beside ours, as a Markdown table."""
  lines = ['| paper | model | GFLOPs: paper | ours | difference | parameters, M: paper | ours |']
  lines.append('|---|---|--:|--:|--:|--:|--:|')
  for row in ROWS:
    found = cost(row.variant, *row.overrides)
    name = ' '.join([row.variant, *row.overrides])
    name += f', {row.views} views' if row.views > 1 else ''
    ours = row.views * found.gflops
    assert row.gflops is not None
    difference = f'{100 * (ours / row.gflops - 1):+.3f} %'
    millions = f'{row.millions:.1f}' if row.millions else ''
    lines.append(
      f'| {row.table} | {name} | {row.gflops:,.1f} | {ours:,.1f} | {difference} '
      f'| {millions} | {found.parameters / 1e6:.3f} |'
    )
  return '\n'.join(lines)


def curves() -> dict[str, dict[str, dict[int, float]]]:
  """Returns GFLOPs by figure, line and place on the horizontal axis."""
  lengths = (8, 4, 2)  # of tubelets, in frames
  views = {
    f'{frames} frames': {
      k: k * cost(f'L/16x2,{ENCODER}', f'clip.frames={frames}').gflops / 1e3 for k in range(1, 8)
    }
    for frames in (32, 64, 128)
  }
  return {
    'Figure 7: GFLOPs by tubelet length, Model 1': {
      f'ViViT-{s}': {t: cost(f'{s}/16x{t}').gflops for t in lengths} for s in 'BL'
    },
    'Figure 8: GFLOPs by tubelet length, ViViT-B': {
      name: {t: cost(f'B/16x{t},{attention}').gflops for t in lengths}
      for name, attention in MODELS.items()
    },
    'Figure 9: TFLOPs of a video by temporal views, ViViT-L/16x2 Model 2': views,
  }


def as_table(lines: dict[str, dict[int, float]]) -> str:
  """Returns the lines of a figure as a Markdown table."""
  places = list(next(iter(lines.values())))
  rows = [f'| | {" | ".join(map(str, places))} |', '|---|' + '--:|' * len(places)]
  for name, values in lines.items():
    cells = [f'{value:,.1f}' for value in values.values()]
    rows.append(f'| {name} | {" | ".join(cells)} |')
  return '\n'.join(rows)


def draw(figures: dict[str, dict[str, dict[int, float]]]) -> Figure:
  """Returns the three figures side by side."""
  figure = Figure(figsize=(10.5, 3.6), facecolor='white', layout='constrained')
  FigureCanvasAgg(figure)
  for axes, (title, lines) in zip(figure.subplots(1, 3), figures.items(), strict=True):
    by_views = 'views' in title
    for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
      places = list(values) if by_views else range(len(values))
      axes.plot(places, values.values(), marker='o', ms=4, color=colour, label=name)
      if by_views:  # the fewest views that see every part of the video
        frames = int(name.split()[0])
        whole = -(-VIDEO // (2 * frames))
        axes.plot(whole, values[whole], 'o', ms=11, mfc='none', color=colour)
    if not by_views:
      axes.set_xticks(range(len(values)), [f'16x{t}' for t in values])
    axes.set_ylim(bottom=0)
    number, _, label = title.partition(': ')
    head, _, rest = label.partition(', ')
    axes.set_title(f'{number}\n{rest}', fontsize=9.5, color=TEXT)
    unit, _, places_name = head.partition(' by ')
    axes.set_ylabel(unit, fontsize=9, color=FAINT)
    axes.set_xlabel(places_name, fontsize=9, color=FAINT)
    axes.tick_params(labelsize=8, colors=FAINT)
    axes.legend(fontsize=7.5, frameon=False, loc='upper left')
    axes.spines[['top', 'right']].set_visible(False)
  return figure


def main() -> None:
  """Prints the tables and draws the picture."""
  target = Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/cost.png')
  print(comparison())
  figures = curves()
  for title, lines in figures.items():
    print(f'\n{title}\n\n{as_table(lines)}')
  target.parent.mkdir(parents=True, exist_ok=True)
  draw(figures).savefig(target, dpi=110)


if __name__ == '__main__':
  main()
