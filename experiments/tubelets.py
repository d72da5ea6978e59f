# SPDX-License-Identifier: Apache-2.0
"""Table 1: tokenizers and their initialization from an image model trained on still digits."""

# Run from the repository root: python experiments/tubelets.py [--help]
# An interrupted one goes on where it was when it is run again.

from collections.abc import Sequence

from matplotlib.figure import Figure

from draw import dots
from markdown_table import markdown
from publish import SMALL, VERB_NOUN, Experiment, Plan, held, main, spread, values
from sweep import Row, Run, repeat

# Settings, and Kinetics-400 top-1 in percent of the paper's Table 1. All have 4 x 4 x 4 tokens.
TOKENIZERS: dict[str, tuple[tuple[str, ...], float]] = {
  'uniform frame sampling': (
    (
      '--config.model.tokenizer=uniform_frame_sampling',
      '--config.model.sampled_frames=4',
      '--config.model.patch=(1,8,8)',
    ),
    78.5,
  ),
  'tubelet, random': (('--config.model.tubelet_init=random',), 73.2),
  'tubelet, inflation': (('--config.model.tubelet_init=inflation',), 77.6),
  'tubelet, central frame': (('--config.model.tubelet_init=central_frame',), 79.2),
}
MODEL = ('--config.model.attention=spatio_temporal',)
STILL = (  # digits of single frames, named by what they are and not by how they move
  "--config.task.heads=('noun',)",
  '--config.task.classes=(10,)',
  '--config.clip.frames=1',
  '--config.model.patch=(1,8,8)',
  '--config.model.tubelet_init=random',
  '--config.train.steps=2000',
  '--config.train.learning_rate=0.002',
)
IMAGE_MODEL = Run('image model', 0, (*SMALL, *STILL, *MODEL), as_image=True)
LONGER = ('--config.train.steps=400',)  # with two labels, 100 leave the verbs at chance
FROM_IMAGE = '--config.init.checkpoint={runs}/' + f'{IMAGE_MODEL.folder}/image.safetensors'
HEADS = ('verb', 'noun', 'action')


def runs(plan: Plan) -> list[Run]:
  """Returns the image model and, from it, each tokeniser with each seed."""
  return [
    IMAGE_MODEL,
    *(
      run
      for name, (settings, _) in TOKENIZERS.items()
      for run in repeat(name, plan.seeds, (*plan.base, *MODEL, *settings, FROM_IMAGE))
    ),
  ]


def table(rows: Sequence[Row]) -> str:
  """Returns accuracies beside the paper's."""
  lines = [
    [
      name,
      *(spread(values(rows, name, 'report', head)) for head in HEADS),
      f'{TOKENIZERS[name][1]:.1f}',
    ]
    for name in held(rows, TOKENIZERS)
  ]
  still = values(rows, IMAGE_MODEL.name, 'report', 'noun')[0]
  text = markdown(('start', *(f'test {head} %' for head in HEADS), 'paper: K400 %'), lines)
  return f'{text}\nThe image model names {still:.1f} % of the digits in single test frames.\n'


def plot(rows: Sequence[Row]) -> Figure:
  """Returns verb, noun and action beside the paper's."""
  names = held(rows, TOKENIZERS)
  return dots(
    {
      **{
        f'{head} top-1 on test videos, %': {n: values(rows, n, 'report', head) for n in names}
        for head in HEADS
      },
      'paper: Kinetics-400 top-1, %': {n: [TOKENIZERS[n][1]] for n in names},
    },
    'Table 1: tokenisers started from an image model (each dot a seed, | their mean)',
  )


EXPERIMENT = Experiment('tubelets', runs, table, plot, small=(*SMALL, *VERB_NOUN, *LONGER))

if __name__ == '__main__':
  main(EXPERIMENT, __doc__)
