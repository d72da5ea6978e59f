# SPDX-License-Identifier: Apache-2.0
"""Every mesh computes what one device does, and no device holds more of the state than its part."""

import dataclasses
import functools
import re
import typing

import jax
import numpy as np
import pytest

from support.encoders import FAMILIES
from support.steps import (
  MESHES,
  assert_bitwise_equal,
  compiled,
  config_of,
  five_steps,
  make_batch,
  train,
)
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.config.schema import Attention, Mesh, Mix
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.distributed.sharding import shard_batch, with_sharding
from vivit_jax.errors import ConfigError
from vivit_jax.model.vivit import build
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.train.state import abstract_state

PAIRS = [(a, m) for a in (*typing.get_args(Attention), *FAMILIES) for m in MESHES]
QUICK = {
  ('factorised_encoder', 'context'),
  ('factorised_dot_product', 'both'),
  ('videoprism', 'pairs'),  # whose stages split other axes
  ('timesformer', 'all'),
}
QUIET = {'mlp_dim': 256, 'dropout': 0.0, 'attention_dropout': 0.0, 'drop_path': 0.0}


def program(config, devices):
  """Returns the compiled step that five_steps has run."""
  state, _ = five_steps(config, devices)
  mesh = make_mesh(config, jax.devices()[:devices])
  batch = shard_batch(mesh, make_batch(config, np.random.default_rng(0)))
  return compiled(config, devices).lower(state, batch).compile()


def assert_same_history(found, expected):
  for several, alone in zip(found, expected, strict=True):
    assert several['loss'] == pytest.approx(alone['loss'], rel=1e-5)
    assert several['gradient_norm'] == pytest.approx(alone['gradient_norm'], rel=1e-5)
    assert several['top1'] == alone['top1']


@pytest.mark.parametrize(
  'attention, mesh',
  [pytest.param(*p, marks=[] if p in QUICK else pytest.mark.faults) for p in PAIRS],
)
def test_five_steps_of_every_model_are_those_of_one_device(attention, mesh):
  _, one = five_steps(config_of(attention, Mesh()), 1)
  _, several = five_steps(config_of(attention, MESHES[mesh]), 8)
  assert_same_history(several, one)
  assert one[-1]['loss'] != one[0]['loss']


def test_queries_of_a_block_kernel_are_split_too():
  _, one = five_steps(config_of('spatio_temporal', Mesh(), **QUIET), 1)
  blocks = config_of('spatio_temporal', MESHES['all'], attention_kernel='blockwise', **QUIET)
  _, several = five_steps(blocks, 8)
  assert_same_history(several, one)


def test_frames_on_several_devices_meet_in_the_temporal_stage():
  config = config_of('factorised_encoder', MESHES['context'])
  text = program(config, 8).as_text()
  moves = re.findall(r'= (\S+) (all-gather|all-to-all|collective-permute|reduce-scatter)\(', text)
  # 4 clips of a row of devices, 4 tubelets along time, width 16: what the spatial stage pooled.
  assert [(kind, shape.partition('{')[0]) for shape, kind in moves] == [
    ('all-gather', 'f32[4,4,16]')
  ]


def test_parameters_are_gathered_and_activations_stay():
  config = config_of('factorised_dot_product', MESHES['both'])
  state, _ = five_steps(config, 8)
  moved = re.findall(r'= f32\[([\d,]+)\]\S* all-\w+\(', program(config, 8).as_text())
  # A scan has the layers' parameters one by one, each with an axis of length 1 before; a gradient
  # may lie transposed, and the tokenizer's is that of a matrix.
  found = {tuple(sorted(int(n) for n in shape.split(',') if n != '1')) for shape in moved}
  kernel = state.params['tokenizer']['kernel']
  shapes = [x.shape for x in jax.tree.leaves(state.params)]
  shapes.append((kernel.size // kernel.shape[-1], kernel.shape[-1]))
  assert len(moved) >= 6
  assert found <= {tuple(sorted(n for n in shape if n != 1)) for shape in shapes}


def test_each_device_holds_its_part_of_what_the_table_splits():
  config = config_of('factorised_dot_product', MESHES['both'])
  state, _ = five_steps(config, 8)
  whole = part = 0
  for path, leaf in jax.tree.leaves_with_path((state.params, state.opt_state)):
    shards = leaf.addressable_shards
    assert len(shards) == 8
    bytes_ = {shard.data.nbytes for shard in shards}
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    split = name.endswith(('kernel', 'position'))
    assert bytes_ == {leaf.nbytes // 4 if split else leaf.nbytes}, name
    whole, part = whole + leaf.nbytes, part + bytes_.pop()
  assert part < 0.35 * whole


@pytest.mark.parametrize(
  'parts, mesh, devices, options, mix',
  [
    (4, Mesh(), 1, {}, Mix()),
    pytest.param(2, MESHES['all'], 8, {}, Mix(mixup=0.3), marks=pytest.mark.faults),
    pytest.param(
      4, Mesh(), 1, {'label_smoothing': 0.1, 'ema_decay': 0.5, 'freeze': ('tokenizer',)}, Mix(),
      marks=pytest.mark.faults,
    ),
  ],
)  # fmt: skip
def test_gradients_of_parts_sum_to_that_of_the_whole_batch(parts, mesh, devices, options, mix):
  whole = config_of('spatio_temporal', Mesh(), options, **QUIET)
  whole = dataclasses.replace(whole, mix=mix)
  in_parts = dataclasses.replace(
    whole, train=dataclasses.replace(whole.train, grad_accum_steps=parts), mesh=mesh
  )
  expected, expected_history = five_steps(whole, 1)
  found, history = five_steps(in_parts, devices)
  assert_same_history(history, expected_history)
  expected = jax.tree.leaves(expected)
  for (path, a), b in zip(jax.tree.leaves_with_path(found), expected, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6, err_msg=jax.tree_util.keystr(path))
  if devices == 1:
    temporary = [program(c, 1).memory_analysis().temp_size_in_bytes for c in (in_parts, whole)]
    assert temporary[0] < 0.6 * temporary[1]


def test_parts_that_would_cross_devices_are_refused():
  config = config_of('spatio_temporal', MESHES['both'], {'grad_accum_steps': 2})
  with pytest.raises(ConfigError, match=r'grad_accum_steps=2 does not divide the 1 clips of'):
    make_mesh(config)
  with pytest.raises(
    ConfigError, match=r'grad_accum_steps=2 and config\.train\.grad_clip_groups=2 both split'
  ):
    config_of('spatio_temporal', Mesh(), {'grad_accum_steps': 2, 'grad_clip_groups': 2})


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Returns a function that says where five steps on a mesh of eight devices were saved."""

  @functools.cache
  def save(mesh):
    state, _ = five_steps(config_of('factorised_dot_product', MESHES[mesh]), 8)
    folder = tmp_path_factory.mktemp(mesh)
    with Checkpoints(folder) as checkpoints:
      checkpoints.save(5, state, {})
    return folder

  return save


RESUMED = {
  '1': (Mesh(), 1),
  '2': (Mesh(), 2),
  'fsdp of 2': (Mesh(data=1, fsdp=2), 2),
  '4x2': (Mesh(data=4, fsdp=2), 8),
  '2x4': (Mesh(data=2, fsdp=4), 8),
  'context': (Mesh(data=2, fsdp=1, context=4), 8),
}


def restore(folder, config, devices):
  """Returns the saved state as a run on so many devices would go on from it."""
  mesh = make_mesh(config, jax.devices()[:devices])
  shapes = abstract_state(config, build(config), make_optimizer(config.train, 20))
  with Checkpoints(folder, read_only=True) as checkpoints:
    return checkpoints.restore(5, with_sharding(mesh, shapes))


@pytest.mark.parametrize('mesh', ['both', pytest.param('fsdp', marks=pytest.mark.faults)])
@pytest.mark.parametrize('where', RESUMED)
def test_a_state_goes_on_any_other_mesh_bit_for_bit(saved, where, mesh):
  axes, devices = RESUMED[where]
  restored = restore(saved(mesh), config_of('factorised_dot_product', axes), devices)
  before, _ = five_steps(config_of('factorised_dot_product', MESHES[mesh]), 8)
  assert_bitwise_equal(restored, before)
  for leaf in jax.tree.leaves(restored):
    assert len(leaf.sharding.device_set) == devices


@pytest.mark.parametrize(
  'where', ['1', *(pytest.param(w, marks=pytest.mark.faults) for w in RESUMED if w != '1')]
)
def test_the_next_loss_is_that_of_the_mesh_that_saved(saved, where):
  axes, devices = RESUMED[where]
  config, same = (config_of('factorised_dot_product', mesh) for mesh in (axes, MESHES['both']))
  batch = make_batch(config, np.random.default_rng(1))
  _, found = train(config, [batch], devices, start=restore(saved('both'), config, devices))
  _, expected = train(same, [batch], 8, start=five_steps(same, 8)[0])
  assert found[0]['loss'] == pytest.approx(expected[0]['loss'], rel=1e-5)
