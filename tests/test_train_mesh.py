# SPDX-License-Identifier: Apache-2.0
"""Every mesh computes what one device does, and no device holds more of the state than its part."""

import functools
import re
import typing

import jax
import numpy as np
import pytest
from test_train_step import changed, compiled, make_batch, train

from vivit_jax.config import Attention, Mesh
from vivit_jax.sharding import make_mesh, put_batch

# 4 x 2 x 3 tokens, and one more for cls: a number that no mesh divides.
CLIP = {'frames': 8, 'height': 16, 'width': 24}
MESHES = {
  'data': Mesh(data=8),
  'fsdp': Mesh(data=1, fsdp=8),
  'both': Mesh(data=2, fsdp=4),
  'context': Mesh(data=2, context=4),
  'all': Mesh(data=2, fsdp=2, context=2),
}
# All pairs are tried by `pytest -m faults`; here what differs most.
QUICK = {
  ('spatio_temporal', 'all'),
  ('factorised_encoder', 'context'),
  ('factorised_dot_product', 'both'),
}
PAIRS = [
  pytest.param(a, m, marks=[] if (a, m) in QUICK else pytest.mark.faults, id=f'{a}-{m}')
  for a in typing.get_args(Attention)
  for m in MESHES
]


def config_of(attention, mesh, train=None, **model):
  """Returns a tiny experiment with every regulariser of the model."""
  pooling = 'cls' if attention in ('spatio_temporal', 'factorised_encoder') else 'mean'
  model = {'attention': attention, 'temporal_layers': 1, 'pooling': pooling, **model}
  return changed(model=model, clip=CLIP, mesh=mesh, train=train or {})


@functools.cache
def five_steps(config, devices):
  rng = np.random.default_rng(0)
  return train(config, [make_batch(config, rng) for _ in range(5)], devices)


def assert_same_history(found, expected):
  for several, alone in zip(found, expected, strict=True):
    assert several['loss'] == pytest.approx(alone['loss'], rel=1e-5)
    assert several['gradient_norm'] == pytest.approx(alone['gradient_norm'], rel=1e-5)
    assert several['top1'] == alone['top1']


@pytest.mark.parametrize('attention, mesh', PAIRS)
def test_five_steps_of_every_model_are_those_of_one_device(attention, mesh):
  _, one = five_steps(config_of(attention, Mesh()), 1)
  _, several = five_steps(config_of(attention, MESHES[mesh]), 8)
  assert_same_history(several, one)
  assert one[-1]['loss'] != one[0]['loss']


def test_blocks_of_queries_are_split_over_context_too():
  options = {'attention_kernel': 'blockwise', 'dropout': 0.0, 'drop_path': 0.0}
  one, several = (
    five_steps(config_of('spatio_temporal', mesh, **options), devices)[1]
    for mesh, devices in ((Mesh(), 1), (MESHES['context'], 8))
  )
  assert_same_history(several, one)


def test_frames_on_several_devices_meet_only_in_the_temporal_stage():
  config = config_of('factorised_encoder', MESHES['context'])
  state, _ = five_steps(config, 8)
  batch = put_batch(make_mesh(config), make_batch(config, np.random.default_rng(0)))
  text = compiled(config, 8).lower(state, batch).compile().as_text()
  moves = re.findall(r'= (\S+) (all-gather|all-to-all|collective-permute|reduce-scatter)\(', text)
  # 4 clips of a row of devices, 4 tubelets along time, width 16: what the spatial stage pooled.
  assert [(kind, shape.partition('{')[0]) for shape, kind in moves] == [
    ('all-gather', 'f32[4,4,16]')
  ]


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
