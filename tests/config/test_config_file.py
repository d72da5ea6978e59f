# SPDX-License-Identifier: Apache-2.0
"""Config files and command-line overrides: resulting values, and one-line errors."""

import dataclasses
import typing
from pathlib import Path

import pytest

from vivit_jax.config.augment import Augment, ColorJitter
from vivit_jax.config.file import apply_variant, defaults, load
from vivit_jax.config.parse import parse
from vivit_jax.config.schema import SIZES, Attention, CheckpointFacts, Config
from vivit_jax.errors import ConfigError

CONFIGS = Path(__file__).parent.parent.parent / 'configs'
HEADER = 'from vivit_jax.config.file import apply_variant, defaults\n'


@pytest.fixture
def write(tmp_path):
  """A function that writes a config file and returns its path."""

  def write_file(body, name='mine.py'):
    path = tmp_path / name
    path.write_text(HEADER + body)
    return path

  return write_file


@pytest.fixture
def plain(write):
  """The path of a config file that changes nothing."""
  return write('def get_config():\n  return defaults()\n')


def message_of(*arguments):
  with pytest.raises(ConfigError) as info:
    load(arguments)
  message = str(info.value)
  assert len(message.splitlines()) == 1
  return message


def test_defaults_are_the_dataclasses():
  assert parse(defaults().to_dict()) == Config()


def test_defaults_are_locked():
  with pytest.raises(AttributeError, match='Did you mean "steps" instead of "stesp"'):
    defaults().train.stesp = 3
  with pytest.raises(TypeError, match='batch_size'):
    defaults().train.batch_size = 'many'


def test_optional_settings_can_be_set_in_a_file():
  config = defaults()
  config.train.steps = 3
  config.data.root = 'videos'
  config.task.joint = 'action'
  config.task.update(heads=('verb', 'noun'), classes=(8, 10))
  parsed = parse(config.to_dict())
  assert (parsed.train.steps, parsed.data.root, parsed.task.joint) == (3, 'videos', 'action')


def test_file_without_overrides(plain):
  assert load([f'--config={plain}']) == Config()


def test_other_arguments_are_left_alone(plain):
  assert load(['train', f'--config={plain}', '--workdir=runs/x']) == Config()


@pytest.mark.parametrize(
  'override, section, name, value',
  [
    ('--config.seed=3', None, 'seed', 3),
    ('--config.train.batch_size=8', 'train', 'batch_size', 8),
    ('--config.train.learning_rate=1', 'train', 'learning_rate', 1.0),
    ('--config.train.epochs=1e3', 'train', 'epochs', 1000.0),
    ('--config.train.steps=5', 'train', 'steps', 5),
    ('--config.data.root=/a b', 'data', 'root', '/a b'),
    ('--config.augment.flip=off', 'augment', 'flip', 'off'),
    ('--config.clip.stride_seconds=0.08', 'clip', 'stride_seconds', 0.08),
    ('--config.init.checkpoint=runs/x', 'init', 'checkpoint', 'runs/x'),
    ('--config.init.facts.heads=12', 'init', 'facts', CheckpointFacts(heads=12)),
    ('--config.init.facts.gelu=exact', 'init', 'facts', CheckpointFacts(gelu='exact')),
    ('--config.model.scan=true', 'model', 'scan', True),
    ('--config.model.remat=block', 'model', 'remat', 'block'),
    ('--config.model.patch=(4,16,32)', 'model', 'patch', (4, 16, 32)),
    ('--config.model.patch=4,16,32', 'model', 'patch', (4, 16, 32)),
    ('--config.mesh.data=-1', 'mesh', 'data', -1),
  ],
)
def test_override(plain, override, section, name, value):
  config = load([f'--config={plain}', override])
  found = getattr(getattr(config, section) if section else config, name)
  assert found == value
  assert type(found) is type(value)


def test_settings_that_follow_another_follow_its_override(write):
  path = write(
    'def get_config():\n  config = defaults()\n'
    "  config.train.warmup_epochs = config.train.get_ref('epochs') / 10\n  return config\n"
  )
  assert load([f'--config={path}', '--config.train.epochs=50']).train.warmup_epochs == 5.0
  assert message_of(f'--config={path}', '--config.train.epochs=ten') == (
    "config.train.epochs='ten' has the wrong type: str, need float"
  )


def test_an_optional_setting_can_be_unset(write):
  path = write(
    'def get_config():\n  config = defaults()\n  config.train.steps = 3\n'
    "  config.data.root = 'x'\n  return config\n"
  )
  config = load([f'--config={path}', '--config.train.steps=None', '--config.data.root=None'])
  assert (config.train.steps, config.data.root) == (None, None)


def test_a_text_that_looks_like_a_number_stays_a_text(plain):
  config = load([f'--config={plain}', '--config.init.checkpoint=12'])
  assert config.init.checkpoint == '12'


def test_override_of_a_setting_that_the_file_left_out(write):
  path = write('from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict()\n')
  assert message_of(f'--config={path}', '--config.train.steps=3') == (
    '--config.train.steps=3: the config file has no config.train.steps: let its get_config() '
    'return defaults()'
  )


def test_several_overrides_and_the_last_wins(plain):
  config = load(
    [
      f'--config={plain}',
      "--config.task.heads=('verb','noun')",
      '--config.task.classes=(8,10)',
      '--config.task.joint=action',
      '--config.model.tokenizer=uniform_frame_sampling',
      '--config.model.patch=(1,16,16)',
      '--config.model.sampled_frames=4',
      '--config.model.sampled_frames=8',
    ]
  )
  assert config.task.heads == ('verb', 'noun')
  assert config.task.joint == 'action'
  assert config.model.sampled_frames == 8


@pytest.mark.parametrize(
  'override, message',
  [
    ('--config.train.stesp=5', "config.train.stesp does not exist; did you mean 'steps'?"),
    ('--config.modle.width=5', "config.modle does not exist; did you mean 'model'?"),
    ('--config.model.patch[0]=4', "config.model.patch[0] does not exist; did you mean 'patch'?"),
    ('--config.model.scan.x=3', 'config.model.scan.x does not exist'),
    (
      '--config.clip=3',
      'config.clip is a section; set one of frames, stride, stride_seconds, sampling, height, '
      'width, mean, std, resize, interpolation',
    ),
    (
      '--config.model.scan',
      '--config.model.scan has no value: write --config.model.scan=VALUE',
    ),
    ('--config.model.scan=maybe', "config.model.scan='maybe' has the wrong type: str, need bool"),
    ('--config.train.steps=ten', "config.train.steps='ten' has the wrong type: str, need int"),
    ('--config.train.steps=', "config.train.steps='' has the wrong type: str, need int"),
    (
      '--config.train.batch_size=1.5',
      'config.train.batch_size=1.5 has the wrong type: float, need int',
    ),
    (
      '--config.model.dropout=low',
      "config.model.dropout='low' has the wrong type: str, need float",
    ),
    ('--config.model.patch=(2,', "config.model.patch='(2,' has the wrong type: str, need a tuple"),
    ('--config.model.patch=(2,16)', 'config.model.patch=(2, 16) has 2 values, need 3'),
    (
      '--config.train.optimizer=sdg',
      "config.train.optimizer='sdg' is not a choice; did you mean 'sgd'?",
    ),
    (
      '--config.init.facts.gelu=exat',
      "config.init.facts.gelu='exat' is not a choice; did you mean 'exact'?",
    ),
    (
      '--config.model.dropout=2',
      'config.model.dropout=2.0 is out of range: it must be from 0.0 to below 1.0',
    ),
    (
      '--config.clip.frames=31',
      'config.clip.frames=31 is not divisible by the tubelet length t=2 of '
      'config.model.patch=(2, 16, 16)',
    ),
  ],
)
def test_refused_override(plain, override, message):
  assert message_of(f'--config={plain}', override) == message


@pytest.mark.parametrize('arguments', [[], ['--config='], ['--config=a.py', '--config=b.py']])
def test_exactly_one_file(arguments):
  message = 'give exactly one --config=FILE or recipe, e.g. --config=moving_digits'
  assert message_of(*arguments) == message


def test_missing_file_names_the_nearest(plain):
  missing = plain.with_name('min.py')
  assert message_of(f'--config={missing}') == (
    f"--config={missing} is not a file; did you mean 'mine.py'?"
  )


def test_missing_folder(tmp_path):
  missing = tmp_path / 'nowhere' / 'mine.py'
  assert message_of(f'--config={missing}:B/16x2') == f'--config={missing} is not a file'


@pytest.mark.parametrize(
  'body, message',
  [
    ('x = (\n', "line 2: SyntaxError: '(' was never closed (mine.py, line 2)"),
    ('import nowhere\n', "line 2: ModuleNotFoundError: No module named 'nowhere'"),
    (
      'def get_config():\n  config = defaults()\n  config.train.stesp = 3\n  return config\n',
      'line 4: AttributeError: Key "stesp" does not exist and cannot be added since the config is '
      'locked. Did you mean "steps" instead of "stesp"?',
    ),
    (
      "def get_config():\n  config = defaults()\n  config.train.steps = 'ten'\n  return config\n",
      "line 4: TypeError: Could not override field 'steps' (reference). ten is of original type "
      "<class 'str'> and cannot be casted to type <class 'int'>",
    ),
    (
      'def half(n):\n  return n / 0\n\n\ndef get_config():\n  half(3)\n',
      'line 3: ZeroDivisionError: division by zero',
    ),
    ("def get_config():\n  raise ValueError('two\\nlines')\n", 'line 3: ValueError: two lines'),
    ('def get_config():\n  raise KeyError\n', 'line 3: KeyError: KeyError'),
    ('import sys\nsys.exit(0)\n', 'line 3: SystemExit: 0'),
    ('def get_config():\n  raise SystemExit\n', 'line 3: SystemExit: SystemExit'),
  ],
)
def test_mistake_in_a_file_names_file_and_line(write, body, message):
  path = write(body)
  assert message_of(f'--config={path}') == f'--config={path} {message}'


def test_a_path_may_have_colons_and_spaces(write, tmp_path):
  (tmp_path / 'a b:c').mkdir()
  body = 'def get_config(variant="B/16x2"):\n  return apply_variant(defaults(), variant)\n'
  path = write(body, 'a b:c/x:y.py')
  assert load([f'--config={path}']).model.layers == 12
  assert load([f'--config={path}:L/16x2']).model.layers == 24
  missing = tmp_path / 'a b'
  assert message_of(f'--config={missing}:c/z.py').startswith(f'--config={missing} is not a file')


def test_a_relative_data_root_is_made_absolute(plain, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for given, found in {
    'videos': tmp_path / 'videos',
    '/a b': '/a b',
    'gs://b/x': 'gs://b/x',
  }.items():
    assert load([f'--config={plain}', f'--config.data.root={given}']).data.root == str(found)


@pytest.mark.parametrize(
  'body, variant, message',
  [
    (
      'def get_config():\n  return defaults()\n',
      ':B/16x2',
      'TypeError: get_config() takes 0 positional arguments but 1 was given',
    ),
    (
      'def get_config(variant):\n  return apply_variant(defaults(), variant)\n',
      '',
      "TypeError: get_config() missing 1 required positional argument: 'variant'",
    ),
  ],
)
def test_variant_that_the_file_does_not_expect(write, body, variant, message):
  path = write(body)
  assert message_of(f'--config={path}{variant}') == f'--config={path}: {message}'


@pytest.mark.parametrize(
  'body', ['x = 1\n', 'get_config = 3\n', 'def get_config():\n  return {}\n']
)
def test_file_that_gives_no_config(write, body):
  path = write(body)
  message = f'--config={path} does not define a get_config() that returns defaults()'
  assert message_of(f'--config={path}') == message


def test_unlocked_file_is_still_checked(write):
  path = write(
    'def get_config():\n  config = defaults()\n  config.unlock()\n'
    '  config.datset = 3\n  return config\n'
  )
  assert message_of(f'--config={path}') == "config.datset does not exist; did you mean 'data'?"


@pytest.mark.parametrize('attention', typing.get_args(Attention))
@pytest.mark.parametrize('size', SIZES)
def test_variant(size, attention):
  model = apply_variant(defaults(), f'{size}/14x4,{attention}').model
  assert model.patch == (4, 14, 14)
  assert model.attention == attention
  grid = attention in ('factorised_self_attention', 'factorised_dot_product')
  by_patch = attention == 'factorised_encoder_by_patch'  # whose mean would lose all motion
  assert model.pooling == ('attention' if by_patch else 'mean' if grid else 'cls')
  assert {name: model[name] for name in ('layers', 'width', 'mlp_dim', 'heads')} == (
    dataclasses.asdict(SIZES[size])
  )


@pytest.mark.parametrize('variant', ['Q/16x2', 'B/16', 'B16x2', 'b/16x2', 'B/16x2x2', ''])
def test_unknown_size(variant):
  with pytest.raises(ConfigError) as info:
    apply_variant(defaults(), variant)
  assert str(info.value) == (
    f'{variant!r} is not a model name: write SIZE/PATCHxTUBELET[,ATTENTION], e.g. '
    'B/16x2,factorised_encoder, with SIZE one of Ti, S, B, L, H'
  )


def test_shipped_kinetics_config_with_variants():
  path = CONFIGS / 'kinetics400.py'
  jitter = ColorJitter(probability=0.8, drop=0.1)
  assert load([f'--config={path}']) == Config(augment=Augment(color_jitter=jitter))
  large = load([f'--config={path}:L/16x2,factorised_encoder', '--config.train.steps=100'])
  assert large.model.layers == large.model.temporal_layers == 24
  assert large.train.steps == 100
  assert message_of(f'--config={path}:B/16x2,factorized') == (
    f"--config={path}: 'factorized' is neither an attention nor a word of this recipe; "
    "did you mean 'factorised_encoder'?"
  )


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.py')), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path):
  assert isinstance(load([f'--config={path}']), Config)
