# SPDX-License-Identifier: Apache-2.0
"""README and docs: no dead link, a site that builds, and a reference that is complete."""

import ast
import dataclasses
import html
import importlib.util
import os
import re
import subprocess
import sys

import pytest

import vivit_jax as vivit
from support.commands import PAGES, ROOT
from vivit_jax.config.schema import Config

LINKING = [*PAGES.values(), ROOT / 'CHANGELOG.md', *(ROOT / '.github').rglob('*.md')]
README_WORDS = 700  # at most, code and tables included


def anchors(file):
  """Returns the anchors of a page's headings, as GitHub and MkDocs make them."""
  heads = re.findall(r'^#+ +(.*)$', file.read_text(), re.MULTILINE)
  plain = (re.sub(r'[`*]|\[([^]]*)\]\([^)]*\)', r'\1', head) for head in heads)
  return {re.sub(r'[^\w -]', '', head.lower()).strip().replace(' ', '-') for head in plain}


@pytest.mark.parametrize('page', LINKING, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(page):
  text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.MULTILINE | re.DOTALL)
  for link in re.findall(r'\]\((?!https?:|mailto:)([^) ]+)\)', text):
    path, _, anchor = link.partition('#')
    target = (page.parent / path).resolve() if path else page
    assert target.exists(), link
    if anchor and target.suffix == '.md':
      assert anchor in anchors(target), link


def test_the_readme_is_short():
  assert len((ROOT / 'README.md').read_text().split()) <= README_WORDS


def test_pictures_are_small():
  for file in (ROOT / 'docs').rglob('*'):
    if file.suffix in ('.png', '.jpg', '.svg', '.ipynb'):
      assert file.stat().st_size < 300_000, file


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """The folder of the site, built with warnings as errors."""
  if importlib.util.find_spec('mkdocs') is None:
    pytest.skip("mkdocs is not installed: pip install -e '.[docs]'")
  folder = tmp_path_factory.mktemp('site')
  result = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', f'--site-dir={folder}'],
    cwd=ROOT,
    env={**os.environ, 'NO_MKDOCS_2_WARNING': '1', 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stderr
  return folder


def test_the_reference_has_every_public_name(site):
  page = (site / 'api' / 'index.html').read_text()
  headings = set(re.findall(r'vivit\.(\w+)', re.sub(r'<[^>]+>', '', html.unescape(page))))
  assert {*vivit.__all__, 'load_pretrained'} <= headings
  for name in ('predict', 'features', 'attention', 'timeline', 'export', 'labels'):
    assert f'id="vivit_jax.api.model.Model.{name}"' in page, name


def test_the_reference_has_every_setting(site):
  page = (site / 'settings' / 'index.html').read_text()

  def look(section, name):
    for field in dataclasses.fields(section):
      value = getattr(section, field.name)
      if dataclasses.is_dataclass(value):
        look(value, f'{name}.{field.name}')
      elif section != Config():
        home = f'{type(section).__module__}.{type(section).__name__}'
        assert f'id="{home}.{field.name}"' in page, f'{name}.{field.name}'

  look(Config(), 'config')
  assert 'id="configseed"' in page
  assert 'clips over all devices and hosts' in page  # comments of settings are their documentation


def test_notebooks_are_pages_with_their_outputs(site):
  for file in (ROOT / 'docs' / 'notebooks').glob('*.ipynb'):
    page = (site / 'notebooks' / file.stem / 'index.html').read_text()
    assert 'data:image/png;base64' in page


@pytest.mark.parametrize(
  'recipe', sorted((ROOT / 'configs').glob('*.py')), ids=lambda file: file.stem
)
def test_a_recipe_says_what_to_expect(recipe):
  text = ' '.join(ast.get_docstring(ast.parse(recipe.read_text())).split())
  if recipe.stem == 'moving_digits':
    assert re.search(r'minutes on two CPU cores and reaches [\d to]+ %', text)
  else:
    assert re.search('not run at full size', text, re.IGNORECASE)


def test_changelog_and_citation_have_the_version():
  assert f'\nversion: {vivit.__version__}\n' in (ROOT / 'CITATION.cff').read_text()
  newest = re.search(r'^## (\S+) \((\S+)\)$', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
  assert newest.groups()[0] == vivit.__version__
  assert f'date-released: "{newest.groups()[1]}"' in (ROOT / 'CITATION.cff').read_text()
