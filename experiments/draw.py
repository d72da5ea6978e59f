# SPDX-License-Identifier: Apache-2.0
"""Plots for the experiments, with every seed as a dot and the mean as a line."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FAINT = '#69717d'
GREY = '#9aa3b0'


def dots(panels: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Figure:
  """Returns panels side by side, in each a line of dots per name, the mean marked.

  Args:
    panels: by the label of its x axis, the values of each name; all with the same names. A single
      value, such as the paper's, is drawn grey.
    title: of the figure.
  """
  names = list(next(iter(panels.values())))
  size = (2.2 + 2.7 * len(panels), 1.3 + 0.42 * len(names))
  figure = Figure(figsize=size, layout='constrained')
  figure.suptitle(title, fontsize=11)
  every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (label, groups) in zip(every, panels.items(), strict=True):
    for y, found in enumerate(groups.values()):
      if not found:
        continue
      mean = statistics.mean(found)
      colour = f'C{y}' if len(found) > 1 else GREY
      axes.plot([min(found), max(found)], [y, y], color=colour, lw=1.5, alpha=0.5)
      axes.plot(found, [y] * len(found), 'o', color=colour, ms=5, alpha=0.6, mec='none')
      axes.plot([mean], [y], '|', color=colour, ms=17, mew=2.5)
      axes.annotate(
        f'{mean:.1f}', (mean, y), (0, 10), textcoords='offset points', ha='center', fontsize=8
      )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(label)
    axes.margins(x=0.12)
    _quiet(axes)
  every[0].set_ylim(len(names) - 0.5, -0.6)
  return figure


def curves(
  panels: Mapping[str, tuple[str, Mapping[str, Mapping[float, Sequence[float]]]]],
  title: str,
  *,
  log: bool = False,
) -> Figure:
  """Returns panels side by side, in each a line per name through means, bars from least to most.

  Args:
    panels: by the label of its y axis, the label of its x axis, and by name the values at each x.
    title: of the figure.
    log: whether x grows by factors.
  """
  figure = Figure(figsize=(1.0 + 3.6 * len(panels), 3.6), layout='constrained')
  figure.suptitle(title, fontsize=11)
  every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
  for axes, (ylabel, (xlabel, series)) in zip(every, panels.items(), strict=True):
    span = max(x for points in series.values() for x in points)
    for k, (name, points) in enumerate(series.items()):
      shift = (k - (len(series) - 1) / 2) / 50  # keeps error bars of one x apart
      places = [x * (1 + shift) if log else x + shift * span / 2 for x in points]
      means = [statistics.mean(found) for found in points.values()]
      below = [mean - min(found) for mean, found in zip(means, points.values(), strict=True)]
      above = [max(found) - mean for mean, found in zip(means, points.values(), strict=True)]
      axes.errorbar(
        places, means, yerr=[below, above], marker='o', ms=5, capsize=3, lw=1.8, label=name
      )
    ticks = sorted({x for points in series.values() for x in points})
    if log:
      axes.set_xscale('log')
    axes.set_xticks(ticks, [f'{x:g}' for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(series) > 1:
      axes.legend(frameon=False, fontsize='small', loc='lower left', bbox_to_anchor=(0, 1), ncols=3)
    _quiet(axes)
  return figure


def _quiet(axes: Axes) -> None:
  axes.grid(alpha=0.25)
  axes.spines[['top', 'right']].set_visible(False)
  axes.tick_params(colors=FAINT, labelcolor='black')
