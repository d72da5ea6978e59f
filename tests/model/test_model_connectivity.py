# SPDX-License-Identifier: Apache-2.0
"""Which input tokens one output token of one block depends on: row, column, cross or everything."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from vivit_jax.config.schema import Model
from vivit_jax.model.attention import TIME
from vivit_jax.model.stages import stages

ROOT = Path(__file__).parent.parent.parent
EXPERIMENT = runpy.run_path(str(ROOT / 'experiments' / 'connectivity.py'))

GRID = (3, 2, 4)
TOKEN = (1, 0, 2)


def mask(row=False, column=False, everything=False):
  """Returns where [T, H, W] tokens lie in TOKEN's frame (row), or at its place (column)."""
  t, h, w = np.indices(GRID)
  in_frame = t == TOKEN[0]
  in_place = (h == TOKEN[1]) & (w == TOKEN[2])
  return (row & in_frame) | (column & in_place) | np.full(GRID, everything)


def seen(layout, series):
  return EXPERIMENT['connectivity'](layout, series, GRID, TOKEN) > 0


@pytest.mark.parametrize(
  'settings, expected',
  [
    ({'attention': 'spatio_temporal'}, mask(everything=True)),
    ({'attention': 'factorised_encoder'}, mask(row=True)),
    (
      {'attention': 'factorised_self_attention', 'order': 'space_time'},
      mask(everything=True),
    ),
    (
      {'attention': 'factorised_self_attention', 'order': 'time_space'},
      mask(everything=True),
    ),
    ({'attention': 'factorised_dot_product'}, mask(row=True, column=True)),
  ],
  ids=['joint', 'space', 'space-time', 'time-space', 'cross'],
)
def test_a_block_of_the_first_stage(settings, expected):
  stage = stages(Model(**settings))[0]
  np.testing.assert_array_equal(seen(stage.pattern, stage.series), expected)


def test_time_alone_is_a_column():
  np.testing.assert_array_equal(seen('b t s d -> b t s d', ((TIME,),)), mask(column=True))


def test_the_temporal_stage_sees_every_frame():
  temporal = stages(Model(attention='factorised_encoder'))[1]
  found = EXPERIMENT['connectivity']('b t 1 d -> b t d', temporal.series, (5, 1, 1), (2, 0, 0))
  assert (found > 0).all()


def test_the_figure_has_a_panel_for_each_pattern(tmp_path):
  figure = EXPERIMENT['draw']()
  assert len(figure.axes) == len(EXPERIMENT['PANELS'])
  figure.savefig(tmp_path / 'connectivity.png', dpi=20)
  assert (tmp_path / 'connectivity.png').stat().st_size > 1000
