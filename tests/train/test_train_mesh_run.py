# SPDX-License-Identifier: Apache-2.0
"""Whole runs that change their mesh on the way, and what is read from them afterwards."""

import shutil

import chex
import jax
import pytest

from support.runs import saved_state, tiny
from vivit_jax.train.log import read_metrics
from vivit_jax.train.loop import train
from vivit_jax.train.run_evaluation import evaluate_run
from vivit_jax.train.sanity import overfit_one_batch
from vivit_jax.weights.pretrained import load_run

RUN = {
  'train__steps': 8,
  'train__evaluate_every': 8,
  'train__log_every': 1,
  'train__ema_decay': 0.5,
}


def logged(workdir):
  return {row['step']: row['loss'] for row in read_metrics(workdir) if 'loss' in row}


@pytest.mark.faults
def test_a_run_moves_between_meshes_and_is_evaluated_as_ever(tmp_path, monkeypatch):
  alone, moving = tmp_path / 'alone', tmp_path / 'moving'
  devices = jax.devices()
  split = tiny(mesh__data=2, mesh__fsdp=4, **RUN)
  train(split, moving)
  shutil.rmtree(moving / 'checkpoints' / '8')  # as if it had been killed before
  monkeypatch.setattr(jax, 'devices', lambda: devices[:1])
  results = train(tiny(**RUN), moving)
  assert results == train(tiny(**RUN), alone)
  found, expected = logged(moving), logged(alone)
  assert list(found) == list(expected) == list(range(1, 9))
  for step, loss in expected.items():
    assert found[step] == pytest.approx(loss, rel=1e-5), step
  chex.assert_trees_all_equal(
    load_run(moving, 'last').params, saved_state(split, moving).ema_params
  )
  assert evaluate_run(moving, step='last')['videos'] == results['videos']


@pytest.mark.faults
def test_one_batch_is_learnt_by_heart_on_a_mesh(capsys):
  assert isinstance(overfit_one_batch(tiny(mesh__data=2, mesh__fsdp=2, mesh__context=2)), bool)
  assert 'one batch of 8 clips' in capsys.readouterr().out
