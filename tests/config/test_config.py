# SPDX-License-Identifier: Apache-2.0
"""Values that `parse` accepts and rejects: types, choices, lengths, ranges, combinations."""

import dataclasses
import json
import typing

import pytest

from vivit_jax.config.parse import check_model, parse, to_dict
from vivit_jax.config.schema import SIZES, Attention, Clip, Config, Model
from vivit_jax.distributed.mesh import check_devices
from vivit_jax.errors import ConfigError, nearest


def message_of(call, *args):
  """Returns the message of the ConfigError that a call must raise; one line, as a user sees it."""
  with pytest.raises(ConfigError) as info:
    call(*args)
  message = str(info.value)
  assert len(message.splitlines()) == 1
  return message


def test_every_default_is_valid_and_survives_parsing():
  assert parse({}) == Config()
  assert parse(to_dict(Config())) == Config()


def test_json_round_trip_keeps_every_setting():
  tree = {
    'seed': 3,
    'task': {'heads': ['verb', 'noun'], 'classes': [8, 10], 'joint': 'action'},
    'model': {'attention': 'factorised_dot_product', 'pooling': 'mean', 'patch': [4, 16, 32]},
    'data': {'root': '/videos', 'moving_digits': {'seed': 5}},
    'train': {'steps': 7, 'learning_rate': 1},
  }
  config = parse(json.loads(json.dumps(tree)))
  assert config.task.heads == ('verb', 'noun')
  assert config.model.patch == (4, 16, 32)
  assert config.data.moving_digits.seed == 5
  assert config.data.moving_digits.test_videos == Config().data.moving_digits.test_videos
  assert parse(json.loads(json.dumps(to_dict(config)))) == config


def test_whole_numbers_are_good_floats():
  rate = parse({'train': {'learning_rate': 1}}).train.learning_rate
  assert rate == 1.0
  assert type(rate) is float


@pytest.mark.parametrize(
  'tree, message',
  [
    # Names.
    ({'modle': {}}, "config.modle does not exist; did you mean 'model'?"),
    ({'train': {'stesp': 1}}, "config.train.stesp does not exist; did you mean 'steps'?"),
    (
      {'data': {'moving_digits': {'train_video': 1}}},
      "config.data.moving_digits.train_video does not exist; did you mean 'train_videos'?",
    ),
    (
      {'mesh': {'pipeline': 1}},
      "config.mesh.pipeline does not exist; choose from 'data', 'fsdp', 'context'",
    ),
    (
      {'clip': 3},
      'config.clip=3 is not a section; set one of frames, stride, stride_seconds, sampling, '
      'height, width, mean, std, resize, interpolation in it',
    ),
    # Types.
    (
      {'train': {'batch_size': '64'}},
      "config.train.batch_size='64' has the wrong type: str, need int",
    ),
    ({'seed': True}, 'config.seed=True has the wrong type: bool, need int'),
    ({'clip': {'frames': 32.0}}, 'config.clip.frames=32.0 has the wrong type: float, need int'),
    ({'model': {'scan': 1}}, 'config.model.scan=1 has the wrong type: int, need bool'),
    ({'data': {'root': 3}}, 'config.data.root=3 has the wrong type: int, need str'),
    ({'train': {'steps': 1.5}}, 'config.train.steps=1.5 has the wrong type: float, need int'),
    ({'model': {'patch': 16}}, 'config.model.patch=16 has the wrong type: int, need a tuple'),
    (
      {'model': {'patch': (2, '16', 16)}},
      "config.model.patch[1]='16' has the wrong type: str, need int",
    ),
    ({'task': {'heads': 'verb'}}, "config.task.heads='verb' has the wrong type: str, need a tuple"),
    ({'seed': None}, 'config.seed=None has the wrong type: NoneType, need int'),
    # Choices.
    (
      {'train': {'optimizer': 'sdg'}},
      "config.train.optimizer='sdg' is not a choice; did you mean 'sgd'?",
    ),
    (
      {'model': {'attention': 'factorized_encoder'}},
      "config.model.attention='factorized_encoder' is not a choice; did you mean "
      "'factorised_encoder'?",
    ),
    (
      {'model': {'pooling': 'gap'}},
      "config.model.pooling='gap' is not a choice; choose from 'cls', 'shared_cls', 'mean', "
      "'attention', 'attention_block', 'none'",
    ),
    (
      {'model': {'scan': False, 'remat': None}},
      "config.model.remat=None is not a choice; did you mean 'none'?",
    ),
    # Lengths.
    ({'model': {'patch': (2, 16)}}, 'config.model.patch=(2, 16) has 2 values, need 3'),
    (
      {'augment': {'crop': {'scale': (0.9, 1.0, 1.33)}}},
      'config.augment.crop.scale=(0.9, 1.0, 1.33) has 3 values, need 2',
    ),
    # Ranges.
    (
      {'train': {'batch_size': 0}},
      'config.train.batch_size=0 is out of range: it must be at least 1',
    ),
    (
      {'model': {'dropout': 1.5}},
      'config.model.dropout=1.5 is out of range: it must be from 0.0 to below 1.0',
    ),
    ({'seed': -1}, 'config.seed=-1 is out of range: it must be at least 0'),
    (
      {'seed': 2**63},
      'config.seed=9223372036854775808 is out of range: it must be at most 4294967295',
    ),
    (
      {'clip': {'stride': 10**30}},
      f'config.clip.stride={10**30} is out of range: it must be at most 2147483647',
    ),
    (
      {'train': {'steps': 10**12}},
      'config.train.steps=1000000000000 is out of range: it must be at most 2147483647',
    ),
    (
      {'faults': {'hang_timeout_seconds': 1e30}},
      'config.faults.hang_timeout_seconds=1e+30 is out of range: it must be from 0.0 to '
      '100000000.0',
    ),
    (
      {'model': {'layers': 10**6}},
      'config.model.layers=1000000 is out of range: it must be from 1 to 1000',
    ),
    ({'train': {'steps': 0}}, 'config.train.steps=0 is out of range: it must be at least 1'),
    (
      {'train': {'learning_rate': float('nan')}},
      'config.train.learning_rate=nan is out of range: it must be at least 0.0',
    ),
    (
      {'train': {'epochs': float('inf')}},
      'config.train.epochs=inf is out of range: it must be at least 0.0',
    ),
    (
      {'model': {'patch': (2, 0, 16)}},
      'config.model.patch[1]=0 is out of range: it must be at least 1',
    ),
    (
      {'task': {'classes': (0,)}},
      'config.task.classes[0]=0 is out of range: it must be at least 1',
    ),
    # Combinations.
    (
      {'task': {'heads': ('verb', 'noun')}},
      "config.task.heads=('verb', 'noun') and config.task.classes=(400,) differ in length: give "
      'one class count per head',
    ),
    (
      {'task': {'heads': (), 'classes': ()}},
      'config.task.heads=() and config.task.classes=() differ in length: give one class count per '
      'head',
    ),
    (
      {'task': {'heads': ('verb', 'verb'), 'classes': (8, 8)}},
      "config.task.heads=('verb', 'verb') has a name twice",
    ),
    (
      {'task': {'kind': 'multi_label', 'heads': ('a', 'b'), 'classes': (8, 8)}},
      "config.task.heads=('a', 'b'): a multi_label task has exactly one head",
    ),
    (
      {'task': {'joint': 'action'}},
      "config.task.joint='action' needs at least two heads, but heads=('label',)",
    ),
    (
      {'augment': {'crop': {'scale': (1.3, 0.9)}}},
      'config.augment.crop.scale=(1.3, 0.9) must be (low, high), 0 < low',
    ),
    (
      {'augment': {'crop': {'ratio': (0.0, 1.0)}}},
      'config.augment.crop.ratio=(0.0, 1.0) must be (low, high), 0 < low',
    ),
    (
      {'augment': {'random_erasing': {'area': (0.5, 0.1)}}},
      'config.augment.random_erasing.area=(0.5, 0.1) must be (low, high), 0 < low',
    ),
    (
      {'augment': {'color_jitter': {'contrast': (1.4, 0.6)}}},
      'config.augment.color_jitter.contrast=(1.4, 0.6) must be (low, high)',
    ),
    (
      {'augment': {'repeated_augmentation': 3}},
      'config.train.batch_size=64 is not divisible by config.augment.repeated_augmentation=3',
    ),
    (
      {'clip': {'stride_seconds': 0}},
      'config.clip.stride_seconds=0.0 must be above 0',
    ),
    (
      {'clip': {'stride_seconds': 0.1, 'sampling': 'whole_video'}},
      "config.clip.stride_seconds=0.1 has no effect with config.clip.sampling='whole_video', which "
      'spreads the frames over the whole video',
    ),
    (
      {'train': {'epochs': 0, 'warmup_epochs': 0}},
      'config.train.epochs=0.0 trains nothing: give epochs > 0 or config.train.steps',
    ),
    (
      {'train': {'epochs': 2}},
      'config.train.warmup_epochs=2.5 is longer than config.train.epochs=2.0',
    ),
    ({'mesh': {'data': 0}}, 'config.mesh.data=0 leaves no device; use -1 for all of them'),
  ],
)
def test_refused_settings(tree, message):
  assert message_of(parse, tree) == message


@pytest.mark.parametrize(
  'name',
  [
    *('model.dropout', 'model.attention_dropout', 'model.drop_path', 'train.momentum'),
    *('train.ema_decay', 'train.label_smoothing'),
  ],
)
def test_a_rate_of_one_would_leave_nothing(name):
  section, setting = name.split('.')
  assert message_of(parse, {section: {setting: 1.0}}) == (
    f'config.{name}=1.0 is out of range: it must be from 0.0 to below 1.0'
  )
  assert getattr(getattr(parse({section: {setting: 0.999}}), section), setting) == 0.999


@pytest.mark.parametrize(
  'model, clip, message',
  [
    (
      {'attention': 'factorised_self_attention'},
      {},
      "config.model.pooling='cls' is not defined for config.model.attention="
      "'factorised_self_attention', whose tokens stay on a grid; use 'mean'",
    ),
    (
      {'attention': 'factorised_dot_product'},
      {},
      "config.model.pooling='cls' is not defined for config.model.attention="
      "'factorised_dot_product', whose tokens stay on a grid; use 'mean'",
    ),
    ({'heads': 7}, {}, 'config.model.width=768 is not divisible by config.model.heads=7'),
    (
      {'attention': 'factorised_dot_product', 'pooling': 'mean', 'heads': 3},
      {},
      'config.model.heads=3 must be even for factorised_dot_product: half of the heads attend '
      'along time, half along space',
    ),
    (
      {},
      {'width': 230},
      'config.clip.height x width=224x230 is not divisible by config.model.patch=(2, 16, 16) '
      '(t, h, w)',
    ),
    (
      {'patch': (2, 32, 16)},
      {'height': 240},
      'config.clip.height x width=240x224 is not divisible by config.model.patch=(2, 32, 16) '
      '(t, h, w)',
    ),
    (
      {},
      {'frames': 31},
      'config.clip.frames=31 is not divisible by the tubelet length t=2 of '
      'config.model.patch=(2, 16, 16)',
    ),
    (
      {'tokenizer': 'uniform_frame_sampling', 'sampled_frames': 8},
      {},
      'config.model.patch=(2, 16, 16): uniform_frame_sampling needs t = 1',
    ),
    (
      {'tokenizer': 'uniform_frame_sampling', 'patch': (1, 16, 16)},
      {},
      'config.model.sampled_frames=None must be from 1 to config.clip.frames=32 for '
      'uniform_frame_sampling',
    ),
    (
      {'tokenizer': 'uniform_frame_sampling', 'patch': (1, 16, 16), 'sampled_frames': 33},
      {},
      'config.model.sampled_frames=33 must be from 1 to config.clip.frames=32 for '
      'uniform_frame_sampling',
    ),
    (
      {'sampled_frames': 8},
      {},
      "config.model.sampled_frames=8 is only for config.model.tokenizer='uniform_frame_sampling'",
    ),
  ],
)
def test_models_that_cannot_exist(model, clip, message):
  assert message_of(parse, {'model': model, 'clip': clip}) == message
  assert message_of(check_model, Model(**model), Clip(**clip)) == message


@pytest.mark.parametrize('attention', typing.get_args(Attention))
@pytest.mark.parametrize('size', SIZES)
def test_every_size_with_every_attention_that_has_enough_heads(size, attention):
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  model = {'attention': attention, 'pooling': pooling, **dataclasses.asdict(SIZES[size])}
  if attention == 'factorised_dot_product' and size == 'Ti':
    assert 'config.model.heads=3 must be even' in message_of(parse, {'model': model})
  else:
    assert parse({'model': model}).model.layers == SIZES[size].layers


FIVE_CLIPS = {'train': {'batch_size': 5}, 'evaluate': {'batch_size': 5}}


@pytest.mark.parametrize(
  'mesh, devices, shape',
  [
    ({}, 8, (8, 1, 1)),
    ({}, 1, (1, 1, 1)),
    ({'data': 4}, 4, (4, 1, 1)),
    ({'fsdp': 4}, 8, (2, 4, 1)),
    ({'data': 1, 'fsdp': -1}, 8, (1, 8, 1)),
    ({'fsdp': 2, 'context': 4}, 64, (8, 2, 4)),
    ({'data': 2, 'fsdp': 2, 'context': -1}, 64, (2, 2, 16)),
  ],
)
def test_axes_of_a_mesh(mesh, devices, shape):
  assert check_devices(parse({'mesh': mesh}), devices) == shape


@pytest.mark.parametrize(
  'tree, devices, message',
  [
    (
      {'train': {'batch_size': 12}},
      8,
      'config.train.batch_size=12 is not divisible by the 8 devices along config.mesh.data=8 x '
      'fsdp=1',
    ),
    (
      {'evaluate': {'batch_size': 10}, 'mesh': {'fsdp': 2}},
      8,
      'config.evaluate.batch_size=10 is not divisible by the 8 devices along config.mesh.data=4 x '
      'fsdp=2',
    ),
    (
      {},
      256,
      'config.train.batch_size=64 leaves some of the 256 devices along config.mesh.data=256 x '
      'fsdp=1 without a clip: split the frames of a clip with config.mesh.context=4',
    ),
    (
      {'mesh': {'fsdp': 4, 'context': 2}},
      256,
      'config.train.batch_size=64 leaves some of the 128 devices along config.mesh.data=32 x '
      'fsdp=4 without a clip: split the frames of a clip with config.mesh.context=4',
    ),
    (
      FIVE_CLIPS,
      8,
      'config.train.batch_size=5 leaves some of the 8 devices along config.mesh.data=8 x fsdp=1 '
      'without a clip: split the frames of a clip with config.mesh.context=8',
    ),
    (
      {**FIVE_CLIPS, 'clip': {'frames': 4}},
      8,
      'config.train.batch_size=5 leaves some of the 8 devices along config.mesh.data=8 x fsdp=1 '
      'without a clip: give a larger batch, or fewer devices',
    ),
    (
      {'mesh': {'data': 4}},
      8,
      'config.mesh.data=4 x fsdp=1 x context=1 is a mesh of 4 devices, but there are 8: use -1 for '
      'one axis',
    ),
    (
      {'mesh': {'fsdp': 3}},
      8,
      'config.mesh.data=-1 x fsdp=3 x context=1 does not divide the 8 devices',
    ),
    (
      {'mesh': {'context': 8}, 'clip': {'frames': 8}},
      8,
      'config.mesh.context=8 does not divide the 4 tubelets along time of config.clip.frames=8: '
      'give a divisor',
    ),
  ],
)
def test_meshes_on_which_an_experiment_does_not_fit(tree, devices, message):
  assert message_of(check_devices, parse(tree), devices) == message


@pytest.mark.parametrize(
  'mesh, message',
  [
    ({'fsdp': 0}, 'config.mesh.fsdp=0 leaves no device; use -1 for all of them'),
    (
      {'fsdp': -1},
      'config.mesh.data=-1 and config.mesh.fsdp=-1: only one axis can take the remaining devices',
    ),
  ],
)
def test_meshes_of_no_devices(mesh, message):
  assert message_of(parse, {'mesh': mesh}) == message


def test_nearest_names_one_or_lists_choices():
  assert nearest('cool', ['pool', 'cls']) == "; did you mean 'pool'?"
  assert nearest('xyzzy', ['pool', 'cls']) == "; choose from 'pool', 'cls'"
  assert nearest('xyzzy', map(str, range(400))).endswith("'19' and 380 more")


def test_config_is_frozen():
  with pytest.raises(dataclasses.FrozenInstanceError):
    Config().seed = 1
