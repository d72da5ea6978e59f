# SPDX-License-Identifier: Apache-2.0
"""Recommended flags of XLA: on accelerators alone, under the user's own, and listed in the docs."""

import os
import sys

import pytest

from support.runs import ROOT
from vivit_jax.distributed import flags

GPU, TPU = flags.RECOMMENDED


@pytest.fixture
def machine(monkeypatch, tmp_path):
  """Returns a function that sets up a machine of a user."""

  def set_up(platforms, gpu, tpu, **variables):
    for name, value in {'JAX_PLATFORMS': platforms, GPU.variable: '', TPU.variable: ''}.items():
      monkeypatch.setenv(name, variables.get(name, value))
    monkeypatch.setattr(flags, 'NVIDIA', tmp_path if gpu else tmp_path / 'none')
    # None: the import system knows that there is no such module.
    monkeypatch.setitem(sys.modules, 'libtpu', pytest if tpu else None)

  return set_up


def words(flags_):
  return {f'--{name}={value}' for name, value in flags_.values.items()}


@pytest.mark.parametrize(
  ('platforms', 'gpu', 'tpu'),
  [
    ('', True, False), ('', False, True), ('cuda', True, False), ('cpu', True, True),
    ('', False, False),
  ],
)  # fmt: skip
def test_flags_are_for_the_accelerators_that_are_there(machine, platforms, gpu, tpu):
  machine(platforms, gpu, tpu)
  flags.set_recommended()
  used = platforms != 'cpu'
  assert set(os.environ[GPU.variable].split()) == (words(GPU) if gpu and used else set())
  assert set(os.environ[TPU.variable].split()) == (words(TPU) if tpu and used else set())


def test_flags_of_the_user_win(machine):
  name = 'xla_gpu_enable_pipelined_all_reduce'
  own = f'--{name}=false --xla_dump_to=/dumps'
  machine('', True, False, XLA_FLAGS=own)
  for _ in range(2):  # a second start changes nothing
    flags.set_recommended()
    found = os.environ['XLA_FLAGS']
    assert found.endswith(own)
    assert found.count(name) == 1
    assert set(found.split()) == words(GPU) - {f'--{name}=true'} | set(own.split())


def test_the_docs_list_every_flag_with_its_source():
  text = (ROOT / 'docs/scale.md').read_text()
  for one in flags.RECOMMENDED:
    assert one.source in text
    for name, value in one.values.items():
      assert f'`--{name}={value}`' in text
