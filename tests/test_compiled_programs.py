# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are kept for accelerators, where the user has not said where."""

import jax
import pytest

from vivit_jax.compiled_programs import keep_compiled_programs


@pytest.fixture
def folder(monkeypatch):
  """Returns a function that starts on a platform with what the user had set."""

  def start(platform, given, cache):
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)
    monkeypatch.setenv('VIVIT_CACHE', cache)
    jax.config.update('jax_compilation_cache_dir', given)
    keep_compiled_programs()
    return jax.config.jax_compilation_cache_dir

  before = jax.config.jax_compilation_cache_dir
  yield start
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.parametrize(
  'platform, given, cache, expected',
  [
    ('tpu', None, '/cache', '/cache/compiled'),
    ('gpu', None, '/cache', '/cache/compiled'),
    ('gpu', None, '', '/home/someone/.cache/vivit_jax/compiled'),
    ('gpu', '/own', '/cache', '/own'),
    ('cpu', None, '/cache', None),
  ],
)
def test_folder(folder, monkeypatch, platform, given, cache, expected):
  monkeypatch.setenv('HOME', '/home/someone')
  assert folder(platform, given, cache) == expected
