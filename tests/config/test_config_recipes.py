# SPDX-License-Identifier: Apache-2.0
"""Recipes by name: found in any folder, listed, copied, and not overwritten."""

from pathlib import Path

import pytest

from vivit_jax.cli.main import main
from vivit_jax.config.file import load
from vivit_jax.config.recipe_files import recipes
from vivit_jax.errors import ConfigError

CONFIGS = Path(__file__).parent.parent.parent / 'configs'


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)


def test_recipes_are_found_by_name_in_an_empty_folder():
  assert set(recipes()) == {file.stem for file in CONFIGS.glob('*.py')}
  named = load(['--config=kinetics400:L/16x2,factorised_encoder', '--config.train.steps=7'])
  assert named == load(
    [f'--config={CONFIGS / "kinetics400.py"}:L/16x2,factorised_encoder', '--config.train.steps=7']
  )
  Path('kinetics400').write_text((CONFIGS / 'moving_digits.py').read_text())
  assert load(['--config=kinetics400']) == load(['--config=moving_digits'])  # a file wins


@pytest.mark.parametrize(
  'name, said',
  [
    ('kinetics40', "is neither a file nor a recipe; did you mean 'kinetics400'? The recipes are"),
    ('xyz', "xyz is neither a file nor a recipe; choose from 'epic_kitchens', 'finetune'"),
    ('configs/ucf101.py', 'is not a file; the recipe of that name is --config=ucf101'),
    ('kinetics400:B/16', "'B/16' is not a model name: write SIZE/PATCHxTUBELET"),
  ],
)
def test_a_wrong_recipe_names_the_others(name, said):
  with pytest.raises(ConfigError) as caught:
    load([f'--config={name}'])
  assert said in str(caught.value)


def test_configs_lists_and_copies_without_overwriting(capsys):
  assert main(['configs']) == 0
  lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
  assert set(lines) == set(recipes())
  assert lines['ucf101'].startswith('UCF101')
  assert main(['configs', 'copy', 'finetune']) == 0
  assert Path('finetune.py').read_text() == (CONFIGS / 'finetune.py').read_text()
  assert main(['configs', 'copy', 'ucf101', 'mine.py']) == 0
  assert load(['--config=mine.py']) == load(['--config=ucf101'])
  capsys.readouterr()
  for arguments, said in (
    (['finetune'], 'finetune.py exists: give another TARGET'),
    (['ucf101', 'mine.py'], 'mine.py exists'),
    (['ucf', 'other.py'], "there is no recipe 'ucf'; did you mean 'ucf101'?"),
    (['ucf101', 'no/such.py'], 'no is not a folder'),
  ):
    assert main(['configs', 'copy', *arguments]) == 2
    assert said in capsys.readouterr().err
