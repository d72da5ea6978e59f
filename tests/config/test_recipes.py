# SPDX-License-Identifier: Apache-2.0
"""The recipes in configs/: the paper's Table 7, every model they can name, and one step of each."""

import dataclasses
import functools
import math
import runpy
import typing
from pathlib import Path

import jax
import pytest

from support.recipes import CONFIGS, recipe
from support.steps import make_batch, train
from vivit_jax.config.augment import Augment
from vivit_jax.config.parse import check
from vivit_jax.config.recipes import BATCHES
from vivit_jax.config.schema import SIZES, Attention, Clip, Config, Evaluate, Mix, Model
from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import ViViT, abstract_params

ATTENTIONS = typing.get_args(Attention)
WORDS = {  # beside BATCHES
  'kinetics400': ('frames_128', 'scenic', 'modern'),
  'kinetics600': ('scenic', 'modern'),
  'moments_in_time': ('modern',),
  'epic_kitchens': ('scenic', 'modern'),
  'something_something_v2': ('scenic', 'modern'),
  'ucf101': (),
}
VARIANTS = [(name, word) for name, own in WORDS.items() for word in ('', *own, *BATCHES)]

# Written down from the paper once more, in its order: K400, K600, MiT, EK, SSv2.
TABLE_7 = {
  'train.momentum': (0.9,) * 5,
  'train.batch_size': (64,) * 5,
  'train.warmup_epochs': (2.5,) * 5,
  'train.learning_rate': (0.1, 0.1, 0.25, 0.5, 0.5),
  'train.epochs': (30, 30, 10, 50, 35),
  'augment.flip': ('horizontal',) * 4 + ('swap_labels',),  # the last is ours
  'augment.crop.kind': ('scale_jitter',) * 5,
  'augment.crop.scale': ((0.9, 1.33),) * 5,
  'augment.color_jitter.probability': (0.8, 0.8, 0.8, 0, 0),
  'augment.rand_augment.layers': (0, 0, 0, 2, 2),
  'augment.rand_augment.magnitude': (10, 10, 10, 15, 20),  # of no layers: the default
  'model.drop_path': (0, 0, 0, 0.2, 0.3),
  'train.label_smoothing': (0, 0, 0, 0.2, 0.3),
  'mix.mixup': (0, 0, 0, 0.1, 0.3),
  # Of Scenic's configs.
  'augment.color_jitter.drop': (0.1, 0.1, 0.1, 0, 0),
  'train.grad_clip_norm': (1,) * 5,
  # By section 4.1 and by what the table does not name.
  'train.optimizer': ('sgd',) * 5,
  'clip.frames': (32,) * 5,
  'clip.stride': (2,) * 5,
  'clip.height': (224,) * 5,
  'evaluate.temporal_views': (4,) * 5,
  'mix.cutmix': (0,) * 5,
  'augment.random_erasing.probability': (0,) * 5,
  'augment.repeated_augmentation': (1,) * 5,
  'train.weight_decay': (0,) * 5,
  'train.ema_decay': (0,) * 5,
  'train.layer_decay': (1,) * 5,
}
DATA_SETS = ('kinetics400', 'kinetics600', 'moments_in_time', 'epic_kitchens')
DATA_SETS += ('something_something_v2',)


def setting(config, path):
  return functools.reduce(getattr, path.split('.'), config)


@pytest.mark.parametrize('path', TABLE_7)
def test_table_7(path):
  assert tuple(setting(recipe(name), path) for name in DATA_SETS) == TABLE_7[path]


@functools.cache
def leaves(model: Model, clip: Clip) -> int:
  return len(jax.tree.leaves(abstract_params(ViViT(model, 1), clip)))


@pytest.mark.parametrize('attention', ATTENTIONS)
@pytest.mark.parametrize('size', SIZES)
def test_every_recipe_builds_every_model(size, attention):
  """With one layer of each transformer; those of full depth are in test_model_cost.py."""
  if (size, attention) == ('Ti', 'factorised_dot_product'):
    with pytest.raises(ConfigError, match='heads=3 must be even'):
      recipe('kinetics400', f'{size}/16x2', attention)
    return
  for name, word in VARIANTS:
    config = recipe(name, f'{size}/16x2', attention, word)
    assert config.model.attention == attention
    sizes = {key: getattr(config.model, key) for key in ('layers', 'width', 'mlp_dim', 'heads')}
    assert sizes == dataclasses.asdict(SIZES[size])
    model = dataclasses.replace(
      config.model, layers=1, temporal_layers=1, drop_path=0.0, drop_path_rescale=False,
      drop_path_schedule='from_zero',
    )  # fmt: skip
    clip = config.clip
    assert leaves(model, Clip(frames=clip.frames, height=clip.height, width=clip.width)) > 20


def tiny(config: Config) -> Config:
  """Returns an experiment that trains in a moment; those of one program are equal."""
  model = dataclasses.replace(
    config.model, layers=1, width=16, mlp_dim=32, heads=2, temporal_layers=1, patch=(2, 8, 8)
  )
  rate = 0.1 if config.train.optimizer == 'sgd' else 1e-4
  config = Config(
    task=dataclasses.replace(config.task, classes=(5,) * len(config.task.heads)),
    model=model,
    clip=Clip(frames=4, height=16, width=16),
    train=dataclasses.replace(
      config.train, batch_size=8, steps=20, epochs=1.0, warmup_epochs=0.0, learning_rate=rate
    ),
    mix=config.mix,
    evaluate=Evaluate(batch_size=8),
  )
  check(config)
  return config


STEPS = [(name, '') for name in WORDS] + [
  (name, 'modern') for name, words in WORDS.items() if 'modern' in words
]


@pytest.mark.parametrize('name, word', STEPS)
def test_one_real_step(name, word, rng):
  config = tiny(recipe(name, 'Ti/16x2', 'spatio_temporal', word))
  state, (metrics,) = train(config, [make_batch(config, rng)])
  assert int(state.step) == 1
  uniform = math.log(5)  # of every head: a fresh one is zero
  assert metrics['loss'] == pytest.approx(uniform, rel=1e-5)
  assert 0 < metrics['gradient_norm'] < math.inf


def test_scenic_has_the_values_that_it_released():
  fe = 'factorised_encoder'
  assert recipe('kinetics400', 'B/16x2', fe, 'scenic').train.learning_rate == 0.05
  assert recipe('kinetics400', 'B/16x2', '', 'scenic').train.learning_rate == 0.1
  assert recipe('kinetics400', 'L/16x2', fe, 'scenic').train.learning_rate == 0.1
  assert recipe('kinetics600', 'L/16x2', fe, 'scenic').train.learning_rate == 0.05
  temporal = {
    name: recipe(name, 'L/16x2', fe, 'scenic').model.temporal_layers
    for name in DATA_SETS
    if name != 'moments_in_time'
  }
  assert temporal == {
    'kinetics400': 24, 'kinetics600': 24, 'epic_kitchens': 4, 'something_something_v2': 4
  }  # fmt: skip
  kitchens = recipe('epic_kitchens', 'L/16x2', fe, 'scenic')
  assert (kitchens.train.learning_rate, kitchens.clip.stride) == (0.5, 1)
  something = recipe('something_something_v2', 'L/16x2', fe, 'scenic')
  assert (something.train.learning_rate, something.clip.stride) == (0.4, 1)
  assert (something.clip.height, something.augment.crop.short_side) == (256, 288)
  assert something.init.positions == 'scenic'
  for config in (kitchens, something):
    assert config.model.drop_path_schedule == 'from_zero'
    assert config.augment.rand_augment.operations == 'scenic'


def test_views_and_frames_of_the_best_kinetics_model():
  """1 x 3 views of 128 frames: 3 x 3980.4 GFLOPs are the 11.94 TFLOPs of Table 6a."""
  config = recipe('kinetics400', 'L/16x2', 'factorised_encoder', 'frames_128')
  assert config.clip.frames == 128
  assert (config.evaluate.temporal_views, config.evaluate.spatial_views) == (1, 3)


@pytest.mark.parametrize('name', WORDS)
def test_larger_batches_scale_the_rate_and_the_ema_decay(name):
  for word in {'', 'modern'} & {'', *WORDS[name]}:
    variant = f'B/16x2,{word}'.rstrip(',')
    plain = recipe(name, variant).train
    for batch, size in BATCHES.items():
      larger = recipe(name, variant, batch).train
      assert larger.batch_size == size
      assert larger.learning_rate == pytest.approx(plain.learning_rate * size / plain.batch_size)
      assert larger.epochs == plain.epochs
      if plain.ema_decay:  # in clips
        memory = [t.batch_size / -math.log(t.ema_decay) for t in (plain, larger)]
        assert memory[1] == pytest.approx(memory[0])
      else:
        assert larger.ema_decay == 0


def test_epic_kitchens_has_verb_and_noun_as_action():
  task = recipe('epic_kitchens').task
  assert dict(zip(task.heads, task.classes, strict=True)) == {'verb': 97, 'noun': 300}
  assert task.joint == 'action'


@pytest.mark.parametrize(
  'variant, message',
  [
    ('B/16x2,modren', "'modren' is neither an attention nor a word of this recipe; did you mean "),
    ('B/16x2,frames_128', "'frames_128' is neither an attention nor a word of this recipe"),
    ('B/16x2,factorized_encoder', "did you mean 'factorised_encoder'?"),
    ('B/16x2,scenic,modern', 'scenic and modern are mutually exclusive: give only one'),
    ('B/16x2,batch_1024,batch_256', 'batch_1024 and batch_256 are mutually exclusive'),
    ('B/16x2,spatio_temporal,factorised_encoder', 'factorised_encoder are mutually exclusive'),
    ('Q/16x2,modern', "'Q/16x2' is not a model name"),
  ],
)
def test_a_wrong_variant_is_one_line(variant, message):
  with pytest.raises(ConfigError) as info:
    recipe('epic_kitchens', variant)
  assert message in str(info.value)
  assert len(str(info.value).splitlines()) == 1


def test_every_config_is_tested_here():
  others = {'finetune', 'moving_digits', 'pretrain'}  # pretrain: train/test_train_masked.py
  others |= {'timesformer', 'videomae', 'videoprism', 'vjepa2'}  # train/test_train_encoders.py
  assert {path.stem for path in CONFIGS.glob('*.py')} == {*WORDS, *others}
  assert set(DATA_SETS) | {'ucf101'} == set(WORDS)


def test_modern_counts_clips_where_videomae_counts_videos():
  """Its script for Kinetics-400 and B: 5e-4 for 256 videos, 75 epochs, two clips of each."""
  modern = recipe('kinetics400', 'B/16x2', 'modern')
  assert modern.augment.repeated_augmentation == 2
  assert modern.train.learning_rate == pytest.approx(5e-4 * (64 / 2) / 256)
  assert modern.train.epochs == 2 * 75
  assert modern.train.optimizer == 'adamw'
  large = recipe('kinetics400', 'L/16x2', 'modern')
  assert large.train.learning_rate == pytest.approx(2e-3 * (64 / 2) / 256)
  assert large.train.epochs == 2 * 35


# Of VideoMAE's scripts: peak for 256 videos, epochs, warm-up's start and floor in shares of the
# peak, stochastic depth, dropout before the head, layer decay.
SCRIPTS = {
  ('kinetics400', 'S/16x2'): (5e-4, 150, 0.002, 0.002, 0.1, 0.0, 0.75),
  ('kinetics400', 'B/16x2'): (5e-4, 75, 0.002, 0.002, 0.1, 0.0, 0.75),
  ('kinetics400', 'L/16x2'): (2e-3, 35, 0.0005, 0.0005, 0.1, 0.0, 0.75),
  ('kinetics400', 'H/14x2'): (1e-3, 50, 1e-5, 0.01, 0.2, 0.5, 0.75),
  ('kinetics600', 'H/14x2'): (1e-3, 50, 1e-5, 0.01, 0.2, 0.5, 0.75),
  ('moments_in_time', 'H/14x2'): (1e-3, 10, 1e-5, 0.01, 0.2, 0.5, 0.75),
  ('something_something_v2', 'S/16x2'): (1e-3, 40, 0.001, 0.001, 0.1, 0.0, 0.7),
  ('something_something_v2', 'B/16x2'): (5e-4, 30, 0.002, 0.002, 0.1, 0.0, 0.75),
  ('ucf101', 'B/16x2'): (5e-4, 100, 2e-5, 0.02, 0.2, 0.5, 0.7),
}


@pytest.mark.parametrize('name, size', SCRIPTS)
def test_modern_has_the_values_of_videomaes_scripts(name, size):
  rate, epochs, start, floor, drop_path, head_dropout, layer_decay = SCRIPTS[name, size]
  config = recipe(name, size, '' if name == 'ucf101' else 'modern')
  train, videos = config.train, config.train.batch_size / config.augment.repeated_augmentation
  assert train.learning_rate == pytest.approx(rate * videos / 256)
  assert train.epochs == epochs * config.augment.repeated_augmentation
  assert (train.warmup_start, train.final_rate) == pytest.approx((start, floor))
  assert (config.model.drop_path, config.model.head_dropout) == (drop_path, head_dropout)
  assert train.layer_decay == layer_decay
  assert videos == (512 if size.startswith('H') else 32)
  operations = config.augment.rand_augment
  assert (operations.layers, operations.probability, operations.fill) == (4, 0.5, 'gray')


def test_modern_never_blends_two_clips_of_one_video():
  with pytest.raises(ConfigError, match='group_size=2 would blend clips of the same video'):
    check(Config(mix=Mix(mixup=0.1), augment=Augment(repeated_augmentation=2)))
  check(Config(mix=Mix(mixup=0.1, group_size=4), augment=Augment(repeated_augmentation=2)))
  for name, words in WORDS.items():
    config = recipe(name, 'B/16x2', 'modern') if 'modern' in words else recipe(name)
    n, repeats = config.mix.group_size, config.augment.repeated_augmentation
    for i in range(n):  # clip i is blended with clip n - 1 - i
      assert i // repeats != (n - 1 - i) // repeats


EXPERIMENT = runpy.run_path(str(CONFIGS.parent / 'experiments' / 'recipes.py'))


def test_the_document_is_what_the_experiment_prints():
  text = (CONFIGS.parent / 'docs' / 'recipes.md').read_text()
  command = 'python experiments/recipes.py docs/recipes.md'
  assert text.endswith(EXPERIMENT['report']() + '\n'), f'write it again: {command}'


def test_the_tests_of_every_regulariser_exist():
  for regulariser in EXPERIMENT['REGULARISERS']:
    assert regulariser.tests
    for file, function in (test.split('::') for test in regulariser.tests):
      text = next(Path(__file__).parent.parent.rglob(f'test_{file}.py')).read_text()
      assert f'\ndef test_{function}(' in text, f'{file}: {function}'


def test_users_of_a_regulariser_are_found():
  users = {r.name: EXPERIMENT['users'](r) for r in EXPERIMENT['REGULARISERS']}
  assert users['colour drop'] == 'kinetics400, kinetics600, moments_in_time'
  assert users['frozen parts'] == 'videoprism, vjepa2'
  assert users['dropout'] == 'none: for experiments'
  assert users['clipping'].startswith('epic_kitchens, finetune, kinetics400')
  assert 'epic_kitchens, ' in users['mixup']
  assert 'epic_kitchens (modern)' in users['cutmix']
