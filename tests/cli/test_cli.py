# SPDX-License-Identifier: Apache-2.0
"""The command line: help texts, and a one-line error for every mistake."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from support.runs import CONFIG, ROOT, command, settings, tiny
from vivit_jax import __version__
from vivit_jax.cli.main import main
from vivit_jax.data.splits import data_root

GRID = f'{CONFIG}:factorised_dot_product'


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  """Paths that the mistakes below need."""
  folder = tmp_path_factory.mktemp('places')
  (folder / 'file').write_text('mine')
  (folder / 'empty').mkdir()
  data = data_root(tiny())
  for name in ('unknown_class', 'class_count', 'no_videos'):
    (folder / name).mkdir()
    shutil.copytree(data / 'classes', folder / name / 'classes')
    for split in ('train', 'validation'):
      (folder / name / f'{split}.csv').write_text('path,verb\na.mp4,left\n')
  (folder / 'unknown_class' / 'train.csv').write_text('path,verb\na.mp4,lefft\n')
  (folder / 'no_videos' / 'train.csv').write_text('path,verb\n')
  with (folder / 'class_count' / 'classes' / 'verb.txt').open('a') as file:
    file.write('jumping\n')
  return folder


def on_data(name):
  return [*settings(data__source='manifests', data__root=f'{{places}}/{name}'), '--workdir={out}']


MISTAKES = {
  # name: (arguments, what the line must say)
  'misspelt override': (
    ['train', f'--config={CONFIG}', '--config.train.stepz=3', '--workdir={out}'],
    ['config.train.stepz does not exist', "did you mean 'steps'"],
  ),
  'wrong type': (
    ['train', f'--config={CONFIG}', '--config.train.steps=many', '--workdir={out}'],
    ["config.train.steps='many' has the wrong type: str, need int"],
  ),
  'wrong choice': (
    ['train', f'--config={CONFIG}', '--config.train.optimizer=adam', '--workdir={out}'],
    ["config.train.optimizer='adam' is not a choice", "did you mean 'adamw'"],
  ),
  'wrong tuple length': (
    ['train', f'--config={CONFIG}', '--config.model.patch=(2,8)', '--workdir={out}'],
    ['config.model.patch=(2, 8) has 2 values, need 3'],
  ),
  'out of range': (
    ['train', f'--config={CONFIG}', '--config.model.dropout=1.5', '--workdir={out}'],
    ['config.model.dropout=1.5 is out of range: it must be from 0.0 to below 1.0'],
  ),
  'cls on a grid': (
    ['train', f'--config={GRID}', '--config.model.pooling=cls', '--workdir={out}'],
    ["config.model.pooling='cls' is not defined", "use 'mean'"],
  ),
  'clip not divisible': (
    ['train', f'--config={CONFIG}', '--config.clip.frames=7', '--workdir={out}'],
    ['config.clip.frames=7 is not divisible by the tubelet length t=2'],
  ),
  'frame not divisible': (
    ['train', f'--config={CONFIG}', '--config.clip.width=41', '--workdir={out}'],
    ['width=40x41 is not divisible by config.model.patch=(2, 8, 8)'],
  ),
  'batch not divisible': (
    ['train', f'--config={CONFIG}', '--config.train.batch_size=12', '--workdir={out}'],
    ['config.train.batch_size=12 is not divisible by the 8 devices along config.mesh.data=8'],
  ),
  'unknown variant': (
    ['inspect', f'--config={CONFIG}:factorized_encoder'],
    ["'factorized_encoder'", "did you mean 'factorised_encoder'"],
  ),
  'missing config file': (
    ['train', '--config=configs/moving_digit.py', '--workdir={out}'],
    ['--config=configs/moving_digit.py is not a file', "did you mean 'moving_digits.py'"],
  ),
  'no config': (['train', '--workdir={out}'], ['give exactly one --config=FILE']),
  'no workdir': (['train', f'--config={CONFIG}'], ['give the folder of the run as --workdir=']),
  'empty workdir': (['train', f'--config={CONFIG}', '--workdir='], ['--workdir=FOLDER']),
  'misspelt workdir': (
    ['train', f'--config={CONFIG}', '--workdri=x'], ["unknown argument '--workdri=x'", '--help'],
  ),
  'workdir is a file': (
    ['train', *settings(), '--workdir={places}/file'],
    ['--workdir={places}/file cannot be written: File exists; give another folder'],
  ),
  'workdir below a file': (
    ['train', *settings(), '--workdir={places}/file/run'],
    ['--workdir={places}/file/run cannot be written: Not a directory; give another folder'],
  ),
  'no data root': (
    ['train', *settings(data__source='manifests'), '--workdir={out}'],
    ['config.data.root is not set: give the folder of train.csv'],
  ),
  'missing data root': (
    ['train', *on_data('nowhere')],
    ['config.data.root={places}/nowhere is not a folder'],
  ),
  'unknown class': (
    ['train', *on_data('unknown_class')],
    ["train.csv:2 verb='lefft' is not in classes/verb.txt", "did you mean 'left'"],
  ),
  'class count': (
    ['train', *on_data('class_count')],
    ['verb.txt has 9 classes but config.task.classes expects 8', '--config.task.classes="(9,)"'],
  ),
  'no videos': (['train', *on_data('no_videos')], ['train.csv lists no videos: give one row']),
  'missing weights': (
    ['train', *settings(init__checkpoint='no/such/run'), '--workdir={out}'],
    ['config.init.checkpoint=no/such/run'],
  ),
  'unknown subcommand': (['trian'], ["invalid choice: 'trian'", "'train'"]),
  'no subcommand': ([], ['COMMAND']),
  'unknown flag': (
    ['evaluate', '--workdir={places}/empty', '--vews=1x1'], ["unknown argument '--vews=1x1'"],
  ),
  'almost --config': (
    ['inspect', f'--config={CONFIG}', '--configs.seed=1'], ["unknown argument '--configs.seed=1'"],
  ),
  'config for evaluate': (
    ['evaluate', '--workdir={places}/empty', '--config.seed=1'],
    ["unknown argument '--config.seed=1'"],
  ),
  'views': (
    ['evaluate', '--workdir={places}/empty', '--views=axb'],
    ['--views=axb is not TxS', 'e.g. 4x3'],
  ),
  'step': (['evaluate', '--workdir={run}', '--step=foo'], ["--step=foo is not a step: give"]),
  'split': (
    ['evaluate', '--workdir={places}/empty', '--split=tests'], ["invalid choice: 'tests'", 'test'],
  ),
  'empty folder': (
    ['evaluate', '--workdir={places}/empty'],
    ['{places}/empty has no run (no config.json): give the --workdir of a `vivit train`'],
  ),
  'escapes': (
    ['inspect', '{places}/\x1b[31mred'], [r'{places}/\x1b[31mred: does not exist'],
  ),
  'missing folder': (
    ['evaluate', '--workdir={places}/nowhere'], ['{places}/nowhere has no run'],
  ),
  'value without name': (
    ['inspect', f'--config={CONFIG}', '--config.seed'], ['--config.seed has no value'],
  ),
  'too many layers': (
    ['inspect', f'--config={CONFIG}', '--config.model.layers=1000000'],
    ['config.model.layers=1000000 is out of range: it must be from 1 to 1000'],
  ),
  'too many devices': (
    ['inspect', f'--config={CONFIG}', f'--devices={10**21}'],
    [f'leaves some of the {10**21} devices along config.mesh.data={10**21}', 'fewer devices'],
  ),
  'a space in a setting': (
    ['inspect', f'--config={CONFIG}', "--config.task.headz=('verb', 'noun')"],
    ["config.task.headz does not exist; did you mean 'heads'"],
  ),
  'a space in a setting of a command without': (
    ['evaluate', '--workdir={places}/empty', '--config.data.root=a b'],
    ["unknown argument '--config.data.root=a b'"],
  ),
  'a section': (
    ['inspect', f'--config={CONFIG}', '--config.train=3'], ['config.train is a section; set one'],
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A folder that looks like a run."""
  from vivit_jax.checkpoint.workdir import write_snapshot

  folder = tmp_path_factory.mktemp('run')
  write_snapshot(folder, tiny(), 'x', {'verb': ['left']})
  return folder


@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(
  name, places, run, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(ROOT)
  where = {'places': places, 'run': run, 'out': tmp_path / 'out'}
  arguments, parts = MISTAKES[name]
  try:
    code = main([argument.format(**where) for argument in arguments])
  except SystemExit as ended:  # argparse
    code = ended.code
  out, err = capsys.readouterr()
  assert code == 2
  assert out == ''
  assert err.count('\n') == 1, err
  assert err.startswith('vivit')
  assert ': error: ' in err
  for part in parts:
    assert part.format(**where) in err
  assert (places / 'file').read_text() == 'mine'


def test_a_mistake_of_the_real_command():
  done = command('train', f'--config={CONFIG}', '--config.modle.layers=2', '--workdir=/dev/null/x')
  assert done.returncode == 2
  assert done.stdout == ''
  assert done.stderr == "vivit: error: config.modle does not exist; did you mean 'model'?\n"


HELP = {
  'train': [
    '--workdir',
    '--config',
    '--config.SECTION.NAME=VALUE',
    'vivit train --config=',
  ],
  'evaluate': ['--workdir', '--step', '--views', '--split', 'vivit evaluate --workdir=runs/'],
  'inspect': ['--config', '--json', 'vivit inspect --config='],
  'configs': ['copy NAME', 'vivit configs copy '],
  'convert': ['SOURCE', 'TARGET', '--to', 'vivit convert '],
  'predict': ['VIDEO', '--checkpoint', '--views', 'vivit predict '],
  'features': ['CHECKPOINT', '--level', '--window', '--hop', '--to', 'vivit features '],
  'explain': ['CHECKPOINT', '--class', '--output', 'vivit explain '],
  'timeline': ['CHECKPOINT', '--hop', '--json', '--csv', '--html', 'vivit timeline '],
  'export': ['CHECKPOINT', 'TARGET', '--to', '--batch', '--input', 'vivit export '],
  'push': ['--workdir', 'OWNER/NAME', '--private', '--license', '--update', 'vivit push '],
  'serve': ['CHECKPOINT', '--port', 'vivit serve '],
  'plan': ['--topology', '--device-memory', '--devices', '--json', 'vivit plan --config='],
}


@pytest.mark.parametrize('name', HELP)
def test_help_names_flags_and_an_example(name, capsys):
  with pytest.raises(SystemExit) as ended:
    main([name, '--help'])
  assert ended.value.code == 0
  text = capsys.readouterr().out
  assert 'example' in text
  for part in HELP[name]:
    assert part in text


def listed_commands(capsys, *group):
  """Returns the names that --help lists."""
  with pytest.raises(SystemExit):
    main([*group, '--help'])
  lines = capsys.readouterr().out.partition('COMMAND\n')[2].partition('\n\n')[0].splitlines()
  # Continuation lines of the summaries stand further to the right.
  return {line.split()[0] for line in lines if line.startswith('    ') and line[4] != ' '}


def test_every_subcommand_has_its_help_tested(capsys):
  assert listed_commands(capsys) == {*HELP, 'data'}


def test_the_help_of_every_data_command_has_an_example(capsys):
  names = listed_commands(capsys, 'data')
  assert 'index' in names
  for name in names:
    with pytest.raises(SystemExit) as ended:
      main(['data', name, '--help'])
    assert ended.value.code == 0
    assert f'vivit data {name} ' in capsys.readouterr().out.partition('example')[2]


def test_help_does_not_wait_for_jax():
  program = (
    'import sys\n'
    'from vivit_jax.cli.main import main\n'
    'try: main(["train", "--help"])\n'
    'except SystemExit: pass\n'
    'print(sorted({"jax", "flax", "orbax", "grain", "cv2", "av"} & set(sys.modules)))\n'
  )
  began = time.process_time(), os.times().children_user
  out = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
  ).stdout
  assert out.splitlines()[-1] == '[]'
  assert os.times().children_user - began[1] < 2.0  # of processor time, whatever else runs


def test_version(capsys):
  with pytest.raises(SystemExit) as ended:
    main(['--version'])
  assert ended.value.code == 0
  assert capsys.readouterr().out == f'vivit_jax {__version__}\n'


def test_the_module_is_the_command():
  script = (ROOT / 'setup.py').read_text()
  assert "'vivit=vivit_jax.cli.main:entry'" in script
  assert 'from vivit_jax.cli.main import entry' in (ROOT / 'vivit_jax' / '__main__.py').read_text()
  done = subprocess.run(
    [sys.executable, '-c', 'import sys; sys.argv[0] = "vivit"; '
     'from vivit_jax.cli.main import entry; entry()', 'evaluate', '--views=1x1'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  module = command('evaluate', '--views=1x1')
  assert (done.returncode, done.stdout, done.stderr) == (
    module.returncode, module.stdout, module.stderr,
  )  # fmt: skip
  assert done.returncode == 2


def test_inspect_needs_neither_data_nor_accelerator(tmp_path):
  done = command(
    'inspect', f'--config={CONFIG}', '--config.data.source=manifests',
    '--config.data.root=/nowhere', '--json',
    VIVIT_CACHE=str(tmp_path / 'cache'), JAX_PLATFORMS='cuda',
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  summary = json.loads(done.stdout)
  assert summary['parameters'] > 0
  assert summary['gflops'] > summary['matmul_gflops'] > 0
  assert not (tmp_path / 'cache').exists()


@pytest.mark.parametrize('form', ['=', ' '])
def test_settings_with_an_equals_sign_or_a_space(form, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  arguments = [f'--config{form}{CONFIG}', f'--config.train.steps{form}7', '--json']
  assert main(['inspect', *' '.join(arguments).split(' ')]) == 0
  assert json.loads(capsys.readouterr().out)['config']['train']['steps'] == 7


def test_settings_and_paths_may_have_spaces(tmp_path, capsys):
  (tmp_path / 'my configs').mkdir()
  file = shutil.copy(ROOT / CONFIG, tmp_path / 'my configs')
  heads = ["--config.task.heads=('verb', 'noun')", '--config.task.classes=(2, 3)']
  for arguments in (heads, [part for text in heads for part in text.split('=')]):
    assert main(['inspect', f'--config={file}', *arguments, '--json']) == 0
    task = json.loads(capsys.readouterr().out)['config']['task']
    assert (task['heads'], task['classes']) == (['verb', 'noun'], [2, 3])


def test_inspect_of_a_fine_tune_needs_no_data(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert main(['inspect', '--config=configs/finetune.py:Ti/16x2']) == 0
  out = capsys.readouterr().out
  assert 'config.task.classes=() is taken from the data' in out
  assert main(['inspect', '--config=configs/finetune.py:Ti/16x2', '--json']) == 0
  without = json.loads(capsys.readouterr().out)
  arguments = ['--config=configs/finetune.py:Ti/16x2', '--config.task.classes=(7,)', '--json']
  assert main(['inspect', *arguments]) == 0
  assert json.loads(capsys.readouterr().out)['parameters'] == without['parameters'] + 6 * 193


def test_no_such_device_is_one_line(tmp_path):
  done = command('train', *settings(), f'--workdir={tmp_path}', JAX_PLATFORMS='nonsense')
  assert done.returncode == 2
  assert done.stderr.startswith('vivit: error: JAX finds no device: ')
  assert done.stderr.count('\n') == 1


def test_an_option_that_was_renamed_is_refused_with_its_new_name(capsys):
  with pytest.raises(SystemExit):
    main(['data', 'build', 'a', 'b', '--max-bad-share=0.5'])
  assert '--max-bad-share=0.5 is now called --max-bad-fraction' in capsys.readouterr().err
