# SPDX-License-Identifier: Apache-2.0
"""Figures 8 and 9: accuracy by number of temporal views per video and of frames per clip."""

# Run from the repository root: python experiments/views.py [--help]
# An interrupted one goes on where it was when it is run again.

from collections.abc import Sequence

from matplotlib.figure import Figure

import factorisations
from draw import curves
from markdown_table import markdown
from publish import Experiment, Plan, held, main, spread, values
from sweep import Row, Run, Test, repeat

VIEWS = (1, 2, 3, 4, 6)  # temporal; one spatial
FRAMES = (4, 8, 12)  # of a clip, every second one of the video's 24; 8 is SMALL's


def many(views: int) -> str:
  """Returns the name of a test with this number of views."""
  return '1 view' if views == 1 else f'{views} views'


TESTS = tuple(Test(many(views), views=(views, 1)) for views in VIEWS)


def name(frames: int) -> str:
  """Returns what the runs with clips of this length are called."""
  return 'factorised_encoder' if frames == 8 else f'{frames} frames'


def runs(plan: Plan) -> list[Run]:
  """Returns a factorised encoder for each length of clip, all tested with each number of views.

  That of 8 frames is a run of `factorisations`.
  """
  found = []
  for frames in FRAMES:
    settings = (*plan.base, *factorisations.MODELS['factorised_encoder'][0])
    if frames != 8:
      settings = (*settings, f'--config.clip.frames={frames}')
    found += repeat(name(frames), plan.seeds, settings, TESTS)
  return found


def table(rows: Sequence[Row]) -> str:
  """Returns a line per length of clip, a column per number of views."""
  lines = [
    [
      f'{frames} frames',
      *(spread(values(rows, name(frames), test.name, 'verb')) for test in TESTS),
    ]
    for frames in FRAMES
    if held(rows, [name(frames)])
  ]
  return markdown(('clip: test verb %', *(test.name for test in TESTS)), lines)


def plot(rows: Sequence[Row]) -> Figure:
  """Returns accuracy against views for each length of clip, and against frames with one view."""

  def found(frames: int, views: int) -> list[float]:
    return values(rows, name(frames), many(views), 'verb')

  frames = [f for f in FRAMES if held(rows, [name(f)])]
  by_views = {f'{f} frames': {float(v): found(f, v) for v in VIEWS} for f in frames}
  by_frames = {many(v): {float(f): found(f, v) for f in frames} for v in (VIEWS[0], VIEWS[-1])}
  return curves(
    {
      'verb top-1 on test videos, %': ('temporal views of a video', by_views),
      'verb top-1 on test videos, % ': ('frames of a clip', by_frames),
    },
    'Figures 8 and 9: views and frames (mean and range of the seeds)',
  )


EXPERIMENT = Experiment('views', runs, table, plot)

if __name__ == '__main__':
  main(EXPERIMENT, __doc__)
