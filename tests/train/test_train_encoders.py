# SPDX-License-Identifier: Apache-2.0
"""Training of encoders other than ViViT from their original checkpoints: probes, fine-tuning."""

import dataclasses
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util

from support.runs import saved_state, tiny
from support.steps import CONFIG
from vivit_jax.config.schema import Config, Init
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.plan.memory import lower_step
from vivit_jax.train.loop import train
from vivit_jax.weights.load import load_source
from vivit_jax.weights.recipes import DATA_SETS, freeze_encoder, read_encoder

REFERENCE = Path(__file__).parent.parent / 'reference'
CHECKPOINTS = {
  'videoprism': 'videoprism/classifier.npz',
  'videomae': 'huggingface/videomae',
  'timesformer': 'huggingface/timesformer',
  'vjepa2': 'huggingface/vjepa2',
}
SIZES = {'videoprism': 'B', 'videomae': 'S', 'timesformer': 'B', 'vjepa2': 'L'}


def from_checkpoint(config: Config, family: str, probe: bool) -> Config:
  """Returns an experiment that starts from a checkpoint, with its model and preprocessing."""
  source = load_source(REFERENCE / CHECKPOINTS[family])
  settings, _ = read_encoder(family, SIZES[family], SIZES[family])
  freeze_encoder(settings)
  clip = source.preprocessing.clip(source.frames, source.height, source.width)
  return dataclasses.replace(
    config,
    model=dataclasses.replace(source.model, head_dropout=0.1),
    clip=dataclasses.replace(clip, stride=1),
    init=Init(checkpoint=str(source.path)),
    train=dataclasses.replace(config.train, freeze=settings.train.freeze if probe else ()),
  )


@pytest.mark.parametrize('how', ['lowered', pytest.param('compiled', marks=pytest.mark.faults)])
def test_a_frozen_encoder_needs_no_backward_pass(how):
  flops = {}
  for probe in (True, False):
    config = from_checkpoint(CONFIG, 'videoprism', probe)
    step = lower_step(config, make_mesh(config, jax.devices()[:1]))
    step = step.compile() if how == 'compiled' else step
    flops[probe] = step.cost_analysis()['flops']
  # A backward pass costs twice a forward one: a third is left, and the head's own.
  print(f'{how}: probe {flops[True]:.3g} operations a step, fine-tuning {flops[False]:.3g}')
  assert flops[True] < 0.45 * flops[False]


@pytest.mark.faults
@pytest.mark.parametrize('devices', [1, 8])
@pytest.mark.parametrize('probe', [True, False])
@pytest.mark.parametrize('family', CHECKPOINTS)
def test_runs_from_checkpoints_resume_bit_for_bit(family, probe, devices, tmp_path, request):
  if devices == 1:
    request.getfixturevalue('one_device')
  config = tiny(
    train__steps=50, train__checkpoint_every=25, train__evaluate_every=50, evaluate__spatial_views=1
  )
  config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, keep=3))
  config = from_checkpoint(config, family, probe)
  results = train(config, tmp_path / 'whole')
  shutil.copytree(tmp_path / 'whole', tmp_path / 'again')
  shutil.rmtree(tmp_path / 'again/checkpoints/50')  # as if killed after step 25
  assert train(config, tmp_path / 'again')['top1'] == results['top1']
  whole, again = (saved_state(config, tmp_path / name) for name in ('whole', 'again'))
  assert int(again.step) == 50
  chex.assert_trees_all_equal(whole, again)
  source = load_source(REFERENCE / CHECKPOINTS[family])
  found = traverse_util.flatten_dict(whole.params, sep='/')
  moved = {n.partition('/')[0] for n, a in found.items() if not np.array_equal(a, source.params[n])}
  assert moved.isdisjoint(config.train.freeze)
  assert {'head'} <= moved


@pytest.mark.parametrize('family', SIZES)
@pytest.mark.parametrize('data', ['', *DATA_SETS])
def test_models_of_recipes_are_those_of_the_weights(family, data):
  source = load_source(REFERENCE / CHECKPOINTS[family])
  settings, _ = read_encoder(family, ','.join(filter(None, (SIZES[family], data))), SIZES[family])
  sized = ('layers', 'width', 'mlp_dim', 'heads', 'patch', 'temporal_layers', 'pooler_layers',
           'drop_path_rescale', 'norm_epsilon', 'final_norm_epsilon')  # fmt: skip
  for name in dataclasses.asdict(source.model):
    if name not in sized:
      assert settings.model[name] == getattr(source.model, name), name
  assert settings.task.classes == ((DATA_SETS[data],) if data else ())
