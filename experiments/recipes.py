# SPDX-License-Identifier: Apache-2.0
"""Compares the recipes in configs/ with the paper's Table 7, and lists their regularization."""

# Run from the repository root: python experiments/recipes.py [docs/recipes.md]
# With a file, the tables in it are replaced; the text before the first of them stays.

import dataclasses
import functools
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vivit_jax.config.parse import parse, to_dict
from vivit_jax.config.schema import Config

ROOT = Path(__file__).parent.parent
DATA_SETS = {
  'kinetics400': 'K400',
  'kinetics600': 'K600',
  'moments_in_time': 'MiT',
  'epic_kitchens': 'EK',
  'something_something_v2': 'SSv2',
}
MODEL = 'L/16x2,factorised_encoder'  # of most of the paper's best results, and of Scenic's configs
FIRST = '## Table 7'

# Rows of the paper's Table 7 in its order and, below, what its text says; None where it says
# nothing. A row of one value holds for all data sets.
PAPER: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
  ('optimiser', 'train.optimizer', ('sgd',)),
  ('momentum', 'train.momentum', (0.9,)),
  ('batch size', 'train.batch_size', (64,)),
  ('warm-up epochs, then cosine', 'train.warmup_epochs', (2.5,)),
  ('base learning rate', 'train.learning_rate', (0.1, 0.1, 0.25, 0.5, 0.5)),
  ('epochs', 'train.epochs', (30.0, 30.0, 10.0, 50.0, 35.0)),
  ('random crop', 'augment.crop.kind', ('scale_jitter',)),
  ('random flip of one clip in two', 'augment.flip', ('horizontal',)),
  ('minimum and maximum scale', 'augment.crop.scale', ((0.9, 1.33),)),
  ('colour jitter probability', 'augment.color_jitter.probability', (0.8, 0.8, 0.8, 0.0, 0.0)),
  ('RandAugment layers', 'augment.rand_augment.layers', (0, 0, 0, 2, 2)),
  ('RandAugment magnitude', 'augment.rand_augment.magnitude', (None, None, None, 15.0, 20.0)),
  ('stochastic depth', 'model.drop_path', (0.0, 0.0, 0.0, 0.2, 0.3)),
  ('label smoothing', 'train.label_smoothing', (0.0, 0.0, 0.0, 0.2, 0.3)),
  ('mixup alpha', 'mix.mixup', (0.0, 0.0, 0.0, 0.1, 0.3)),
  ('frames, section 4.1', 'clip.frames', (32,)),
  ('stride, section 4.1', 'clip.stride', (2,)),
  ('pixels, section 4.2', 'clip.height', (224,)),
  ('temporal views, section 4.1', 'evaluate.temporal_views', (4,)),
  ('spatial views, section 4.3', 'evaluate.spatial_views', (3, 3, None, None, None)),
  ('temporal layers, section 4.2', 'model.temporal_layers', (4,)),
  ('depth of the first layer, eq. 10', 'model.drop_path_schedule', (*[None] * 3, 'paper', 'paper')),
  ('colour drop', 'augment.color_jitter.drop', (None,)),
  ('gradient norm', 'train.grad_clip_norm', (None,)),
  ('weight decay', 'train.weight_decay', (None,)),
)
NOTES = {  # why a cell is not the paper's, or where it comes from if the paper has none
  'model.temporal_layers': '24 in Scenic and by the GFLOPs of section 4.2',
  'augment.color_jitter.drop': 'Scenic',
  'train.grad_clip_norm': 'Scenic',
  'train.weight_decay': 'Scenic',
  'evaluate.spatial_views': "Scenic's model zoo: 4 x 1 on EK",
  'augment.flip': 'the label is mirrored too',
}


@dataclasses.dataclass(frozen=True)
class Regulariser:
  """What keeps a model from learning its training videos by heart, and how that is tested."""

  name: str
  path: str
  off: Any
  tests: tuple[str, ...]  # file without test_ and .py :: function without test_


REGULARISERS = tuple(
  Regulariser(name, path, off, tuple(tests.split()))
  for name, path, off, tests in (
    (
      'random crop', 'augment.crop', None,
      'data_crop::jittered_boxes_are_those_of_a_slow_reference '
      'data_crop::inception_boxes_have_the_area_and_ratio_drawn',
    ),
    ('flip', 'augment.flip', 'off', 'data_crop::half_of_all_clips_are_mirrored_or_none'),
    (
      'colour jitter', 'augment.color_jitter.probability', 0.0,
      'data_color::jitter_is_that_of_a_slow_reference '
      'data_color::draws_have_the_papers_probabilities_and_strengths',
    ),
    (
      'colour drop', 'augment.color_jitter.drop', 0.0,
      'data_color::gray_is_the_weighted_sum_of_the_channels',
    ),
    (
      'RandAugment', 'augment.rand_augment.layers', 0,
      'data_rand_augment::values_are_those_of_pil_on_all_frames_as_one_image '
      'data_rand_augment::all_operations_and_none_are_drawn_alike_and_signs_too',
    ),
    (
      'random erasing', 'augment.random_erasing.probability', 0.0,
      'data_erase::only_the_box_is_erased_and_in_every_frame',
    ),
    (
      'repeated augmentation', 'augment.repeated_augmentation', 1,
      'data_augment::repeats_are_neighbours_and_an_epoch_counts_clips',
    ),
    (
      'mixup', 'mix.mixup', 0.0,
      'train_mix::pixels_and_labels_are_blended_by_one_draw_per_group '
      'train_mix::one_device_and_eight_agree',
    ),
    (
      'cutmix', 'mix.cutmix', 0.0,
      'train_mix::cut_boxes_are_rectangles_of_about_the_drawn_area '
      'train_mix::one_device_and_eight_agree',
    ),
    (
      'label smoothing', 'train.label_smoothing', 0.0,
      'train_losses::one_head train_losses::several_heads_average train_losses::multi_label',
    ),
    (
      'stochastic depth', 'model.drop_path', 0.0,
      'model_regularisers::each_example_and_each_branch_is_dropped_on_its_own '
      'model_regularisers::rates_are_linear_over_depth',
    ),
    (
      'dropout', 'model.dropout', 0.0,
      'model_regularisers::regularisers_depend_on_the_key_and_are_off_in_testing',
    ),
    (
      'attention dropout', 'model.attention_dropout', 0.0,
      'model_regularisers::regularisers_depend_on_the_key_and_are_off_in_testing',
    ),
    (
      'head dropout', 'model.head_dropout', 0.0,
      'model_regularisers::regularisers_depend_on_the_key_and_are_off_in_testing',
    ),
    (
      'weight decay', 'train.weight_decay', 0.0,
      'train_optimizer::adamw_decays_matrices_alone_and_decoupled '
      'train_optimizer::weight_decay_skips_biases_norms_positions_and_cls',
    ),
    (
      'clipping', 'train.grad_clip_norm', 0.0,
      'train_optimizer::clipping_scales_the_whole_gradient_to_its_norm',
    ),
    (
      'clipping by group', 'train.grad_clip_groups', 0,
      'train_step::groups_are_clipped_before_their_mean',
    ),
    (
      'averaged weights', 'train.ema_decay', 0.0,
      'train_step::averaged_weights_follow_the_equation_and_are_evaluated',
    ),
    (
      'layer-wise decay', 'train.layer_decay', 1.0,
      'train_optimizer::layer_decay_scales_what_the_optimiser_gives',
    ),
    (
      'frozen parts', 'train.freeze', (),
      'train_step::frozen_parts_keep_their_values_bit_for_bit',
    ),
  )
)  # fmt: skip


@functools.cache
def recipe(name: str, variant: str = '') -> Config:
  """Returns what a file in configs/ gives."""
  get_config = runpy.run_path(str(ROOT / 'configs' / f'{name}.py'))['get_config']
  return parse(get_config(*([variant] if variant else [])).to_dict())


def setting(config: Config, path: str) -> Any:
  """Returns the value of a setting such as `train.epochs`."""
  return functools.reduce(getattr, path.split('.'), config)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  """Returns a Markdown table."""
  head = list(head)
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def table_7() -> str:
  """Returns Table 7, with what differs here and what the paper leaves open in bold."""
  rows = []
  for label, path, values in PAPER:
    values = values * len(DATA_SETS) if len(values) == 1 else values
    cells = []
    for name, theirs in zip(DATA_SETS, values, strict=True):
      ours = setting(recipe(name, MODEL), path)
      same = theirs is not None and ours == theirs
      off = path.endswith('magnitude') and not recipe(name, MODEL).augment.rand_augment.layers
      off |= path.endswith('schedule') and not recipe(name, MODEL).model.drop_path
      shown = '-' if theirs is None else _text(theirs)
      cells.append(shown if same or (off and theirs is None) else f'{shown} / **{_text(ours)}**')
    note = NOTES.get(path, '') if any('**' in cell for cell in cells) else ''
    rows.append([label, f'`{path}`', *cells, note])
  return table(['', 'setting', *DATA_SETS.values(), ''], rows)


def changes(word: str, variants: dict[str, str]) -> str:
  """Returns what a word changes, per recipe: a table of settings by recipes."""
  columns = {}
  for title, variant in variants.items():
    name, _, model = variant.partition(':')
    before, after = _flat(recipe(name, model)), _flat(recipe(name, f'{model},{word}'))
    columns[title] = {path: (before[path], after[path]) for path in after}
  paths = [p for p in next(iter(columns.values()))
           if any(a != b for a, b in (column[p] for column in columns.values()))]  # fmt: skip
  rows = [
    [
      f'`{path}`',
      *(
        _text(a) if a == b else f'{_text(a)} / **{_text(b)}**'
        for a, b in (column[path] for column in columns.values())
      ),
    ]
    for path in paths
  ]
  return table(['setting', *columns], rows)


def users(regulariser: Regulariser) -> str:
  """Returns the recipes that have a regulariser on, with the word that turns it on."""
  found = []
  for path in sorted((ROOT / 'configs').glob('*.py')):
    name = path.stem
    if setting(recipe(name), regulariser.path) != regulariser.off:
      found.append(name)
    elif name in DATA_SETS:
      config = recipe(name, f'{MODEL},modern')
      if setting(config, regulariser.path) != regulariser.off:
        found.append(f'{name} (modern)')
  everyone = [path.stem for path in sorted((ROOT / 'configs').glob('*.py'))]
  return 'all' if found == everyone else ', '.join(found) or 'none: for experiments'


def report() -> str:
  """Returns all tables."""
  scenic = {
    'K400, B': 'kinetics400:B/16x2,factorised_encoder',
    'K600, L': f'kinetics600:{MODEL}',
    'EK, L': f'epic_kitchens:{MODEL}',
    'SSv2, L': f'something_something_v2:{MODEL}',
  }
  modern = {title: f'{name}:B/16x2,factorised_encoder' for name, title in DATA_SETS.items()}
  rows = [
    [
      regulariser.name,
      f'`{regulariser.path}`',
      ', '.join(
        f'`test_{file}.py::test_{function}`'
        for file, function in (test.split('::') for test in regulariser.tests)
      ),
      users(regulariser),
    ]
    for regulariser in REGULARISERS
  ]
  return '\n\n'.join(
    [
      FIRST,
      f'Of {MODEL}; the paper / **here** where both differ or the paper (-) says nothing.',
      table_7(),
      "## `scenic`: Scenic's released values where they differ",
      'Table 7 / **with the word**; all factorised encoders.',
      changes('scenic', scenic),
      '## `modern`',
      'Table 7 / **with the word**; B/16x2 factorised encoders.',
      changes('modern', modern),
      '## Regularisers, their tests and their users',
      table(['', 'setting', 'tests', 'recipes'], rows),
    ]
  )


def _flat(config: Config) -> dict[str, Any]:
  flat: dict[str, Any] = {}

  def visit(path: str, value: Any) -> None:
    if isinstance(value, dict):
      for name, inner in value.items():
        visit(f'{path}.{name}' if path else name, inner)
    else:
      flat[path] = value

  visit('', to_dict(config))
  return flat


def _text(value: Any) -> str:
  if isinstance(value, tuple):
    return ' to '.join(map(_text, value))
  return f'{value:.5g}' if isinstance(value, float) else str(value)


def main() -> None:
  """Prints the tables, or writes them to the end of a document."""
  if len(sys.argv) > 1:
    target = Path(sys.argv[1])
    target.write_text(target.read_text().partition(FIRST)[0] + report() + '\n')
  else:
    print(report())


if __name__ == '__main__':
  main()
