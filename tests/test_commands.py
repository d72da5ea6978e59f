# SPDX-License-Identifier: Apache-2.0
"""Every command of README and docs: parsed, and those of code blocks run, with tiny models."""

import re
import shutil
from pathlib import Path

import pytest

from support import runs
from support.commands import PAGES, ROOT, block_commands, inline_commands, words
from support.videos import write_video
from vivit_jax.cli import main as cli
from vivit_jax.cli.main import main
from vivit_jax.config.file import load

REFERENCE = ROOT / 'tests' / 'reference' / 'huggingface' / 'vivit'
EVERY = sorted({c for page in PAGES.values() for c in block_commands(page) + inline_commands(page)})
OF_VIVIT = [command for command in EVERY if command.startswith('vivit ')]
PATTERN = re.compile(r'\.\.\.|\[|\||FILE\b|DATA_SET')  # of a command with gaps to be filled

# Commands of code blocks that are parsed, but not run, and why.
NOT_RUN = {
  r'vivit train --config=configs/moving_digits.py --workdir=\S+$': 'the fixture `trained` runs it',
  r'vivit train .*--overfit-one-batch': 'hundreds of steps: tests/train/test_train_guard_rails.py',
  r'vivit plan ': 'takes minutes, or compilers of vivit_jax[plan]: tests/plan runs it',
  r'vivit inspect .*kinetics400': 'ten seconds of shapes: tests/plan/test_summary.py runs it',
  r'vivit train .*--config.mesh.fsdp=8': 'eight devices: tests/train/test_train_mesh.py',
  r'vivit train .*configs/pretrain.py': 'masked pretraining has tests of its own',
  r'vivit train .*=runs/pretrained ': 'masked pretraining has tests of its own',
  r'vivit data bench ': 'measures: tests/data/test_data_bench.py runs it',
  r'vivit serve ': 'serves until it is stopped: tests/inference/test_inference_serve.py',
  r'vivit push ': 'the Hugging Face Hub: tests/weights/test_push.py has a service of its own',
  r'vivit export .*--to=page': 'npm and the network: tests/inference/test_inference_page.py',
  r'vivit train --config=configs/(?!finetune|moving_digits)': 'public data sets, at full size',
}
# Commands that cannot be parsed here, and why.
NOT_PARSED = {
  'vivit inspect --config=kinetics400:B/16x2,time_encoder_first': (
    'works once the lines of docs/extend.md are added: tests/test_extend.py adds them'
  ),
}
# What stands for the names that readers replace by their own.
STAND_INS = {
  'hf://google/vivit-b-16x2-kinetics400': str(REFERENCE),
  'WEIGHTS': str(REFERENCE),
  'DATA': 'FOLDER',
  'RUN': 'runs/own',
  'HOST:PORT': 'localhost:1234',
  'N': '2',
  'I': '0',
}
# Settings with which training ends in a moment, by recipe; a fine-tune fits the weights above.
SMALL = {
  'moving_digits': {
    **runs.TINY, 'train.steps': 2, 'train.evaluate_every': 2, 'model.dropout': 0.0,
    'model.drop_path': 0.0, 'evaluate.temporal_views': 1,
  },
  'finetune': {
    'data.workers': 0, 'model.layers': 3, 'model.width': 48, 'model.mlp_dim': 96, 'model.heads': 4,
    'model.patch': (2, 8, 8), 'clip.frames': 8, 'clip.height': 32, 'clip.width': 32,
    'train.batch_size': 4, 'train.steps': 2, 'train.warmup_epochs': 0.0, 'evaluate.batch_size': 4,
    'evaluate.temporal_views': 1, 'evaluate.spatial_views': 1,
  },
}  # fmt: skip


def filled(command):
  """Returns the arguments of a command of ours, with stand-ins."""
  arguments = []
  for argument in words(command)[1:]:
    if argument == '...':
      continue
    for name, value in STAND_INS.items():
      argument = re.sub(rf'(?<![\w-]){re.escape(name)}(?!\w)', value, argument)
    arguments.append(argument)
  return arguments


def names(command):
  """Returns the names of a command alone: `data build`."""
  return re.match(r'vivit ((?:data )?[a-z]*)', command)[1].split()


@pytest.mark.parametrize('command', sorted(set(OF_VIVIT) - set(NOT_PARSED)))
def test_a_command_of_ours_is_parsed(command, monkeypatch, capsys):
  if names(command) == words(command)[1:]:
    command += ' --help'
  seen = []
  for module in (*cli.COMMANDS, *cli.DATA_COMMANDS):
    monkeypatch.setattr(module, 'run', lambda options: seen.append(options) or 0)
  arguments = filled(command)
  monkeypatch.chdir(ROOT)
  try:
    code = main(arguments)
  except SystemExit as error:
    code = error.code
    seen.append(None)
  assert code == 0, capsys.readouterr().err
  (options,) = seen
  if options is not None and options.settings and not PATTERN.search(command):
    load(options.settings)


@pytest.mark.parametrize('reason', NOT_RUN)
def test_a_reason_not_to_run_has_its_command(reason):
  assert any(
    re.match(reason, command) for page in PAGES.values() for command in block_commands(page)
  )


def test_what_cannot_be_parsed_is_there():
  assert set(NOT_PARSED) <= set(OF_VIVIT)


@pytest.mark.parametrize('command', [c for c in EVERY if not c.startswith('vivit ')])
def test_what_another_command_names_exists(command):
  program, *arguments = words(command)
  if program == 'pip':
    for extras in re.findall(r'\[([\w,]+)\]', command):
      for extra in extras.split(','):
        assert f"'{extra}': [" in (ROOT / 'setup.py').read_text(), extra
    return
  files = [ROOT / argument for argument in arguments if re.match(r'(experiments|tests)/', argument)]
  assert all(file.exists() for file in files)
  if program == 'python' and files:
    text = files[0].read_text() + (ROOT / 'experiments' / 'publish.py').read_text()
    for option in re.findall(r' --([a-z-]+)', command):
      assert re.search(rf"'(--)?{option.replace('-', '[-_]')}'|\\b{option}:", text), option
  if program == 'pytest' and '-m' in arguments:
    markers = (ROOT / 'pyproject.toml').read_text()
    for marker in set(arguments[arguments.index('-m') + 1].split()) - {'not', 'or', 'and'}:
      assert f'"{marker}: ' in markers


def to_run():
  """Returns the commands that are run by page; those that several pages have, on the first."""
  found, known = {}, set()
  for name, page in PAGES.items():
    found[name] = [
      command
      for command in dict.fromkeys(block_commands(page))
      if command.startswith('vivit ')
      and command not in known
      and not PATTERN.search(command)
      and not any(re.match(reason, command) for reason in NOT_RUN)
    ]
    known |= {command for command in found[name] if ' data index ' not in command}
  return {name: commands for name, commands in found.items() if commands}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """The run of the README's first command, its model tiny."""
  folder = tmp_path_factory.mktemp('trained') / 'run'
  assert main([*small(['train', '--config=configs/moving_digits.py']), f'--workdir={folder}']) == 0
  return folder


def small(arguments):
  """Returns the arguments of `vivit train` with settings that make it short."""
  if arguments[0] != 'train':
    return arguments
  (recipe,) = (name for name in SMALL if f'configs/{name}.py' in arguments[1])
  return [*arguments, *(f'--config.{name}={value}' for name, value in SMALL[recipe].items())]


@pytest.fixture
def folder(tmp_path, monkeypatch, trained):
  """A clone's folder with a run, a video, and folders of videos, as the pages assume them."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  for run in ('digits', 'moving_digits'):
    shutil.copytree(trained, tmp_path / 'runs' / run)
  shutil.copy(ROOT / 'tests' / 'golden' / 'digit.mp4', 'clip.mp4')
  for kind in ('rising', 'falling'):
    for k in range(5):
      write_video(Path('FOLDER', kind, f'{k}.mp4'), codec='mpeg4')
  Path('VIDEOS').mkdir()
  shutil.copy('clip.mp4', 'VIDEOS')


@pytest.mark.parametrize('page', to_run())
def test_commands_of_a_page_run(page, folder, one_device, compiled_once, capfd):
  for command in to_run()[page]:
    try:
      code = main(small(filled(command)))
    except SystemExit as error:  # of --help
      code = error.code
    assert code == 0, f'{command}: {capfd.readouterr().err}'
