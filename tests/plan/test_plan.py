# SPDX-License-Identifier: Apache-2.0
"""Whether a step fits is said before it runs, by estimate or by the compiler for TPUs."""

import dataclasses
import importlib.metadata
import importlib.util
import json

import jax
import pytest

from vivit_jax.cli import main
from vivit_jax.config.schema import Clip, Config, Data, Masked, Mesh, Model, Task, Train
from vivit_jax.errors import ConfigError
from vivit_jax.plan import report
from vivit_jax.plan.compile import Compiler
from vivit_jax.plan.memory import estimate
from vivit_jax.plan.search import (
  changes,
  combinations,
  parse_memory,
  parse_topology,
  search,
  with_changes,
)

TINY = Config(
  model=Model(layers=3, width=32, mlp_dim=64, heads=2, patch=(2, 4, 4)),
  clip=Clip(frames=8, height=16, width=16),
  data=Data(root='/nowhere'),
  train=Train(batch_size=32, steps=10),
)
NEEDS_LIBTPU = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason="needs pip install 'vivit_jax[plan]'"
)


def changed(section, **settings):
  return dataclasses.replace(
    TINY, **{section: dataclasses.replace(getattr(TINY, section), **settings)}
  )


def test_state_is_counted_to_the_byte():
  from vivit_jax.distributed.mesh import make_mesh
  from vivit_jax.distributed.sharding import shard_state
  from vivit_jax.plan.memory import abstract_training
  from vivit_jax.train.state import init_state

  config = changed('mesh', fsdp=4)
  model, optimizer, _ = abstract_training(config)
  state = shard_state(make_mesh(config), init_state(config, model, optimizer))

  def held(tree):
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

  sizes = estimate(config, 8, 'gpu')
  assert sizes['parameters'] == held(state.params) < 0.5 * estimate(TINY, 8, 'gpu')['parameters']
  assert sizes['optimizer state and averages'] == held(state.opt_state)


def test_what_is_saved_is_that_of_the_layers_and_clips():
  one, two = (estimate(changed('train', batch_size=n), 8, 'gpu') for n in (32, 64))
  name = 'saved for the backward pass'
  assert two[name] == 2 * one[name] > 0
  sizes = {n: estimate(changed('model', layers=n), 8, 'gpu')[name] for n in (1, 2, 5)}
  assert sizes[5] - sizes[1] == 4 * (sizes[2] - sizes[1])
  # 4 clips of a device, 65 tokens: per layer at least the six products with parameters.
  assert sizes[2] - sizes[1] > 4 * 65 * 4 * (5 * 32 + 64)


@pytest.mark.parametrize('attention', ['factorised_encoder', 'factorised_encoder_by_patch'])
def test_both_stages_count(attention):
  name = 'saved for the backward pass'
  sizes = {
    n: estimate(changed('model', attention=attention, temporal_layers=n), 8, 'gpu')[name]
    for n in (1, 2, 4)
  }
  assert sizes[4] - sizes[2] == pytest.approx(2 * (sizes[2] - sizes[1]), abs=3)
  assert sizes[2] > sizes[1]


def test_masked_pretraining_counts_visible_patches():
  config = changed('model', pooling='none', tubelet_init='random')
  config = dataclasses.replace(config, task=Task('masked', (), ()))
  name, sizes = 'saved for the backward pass', []
  for ratio in (0.5, 0.75):
    masked = Masked(ratio, decoder_layers=1, decoder_width=16, decoder_heads=2, decoder_mlp_dim=32)
    one, two = (
      estimate(dataclasses.replace(config, masked=masked, model=model), 8, 'gpu')[name]
      for model in (config.model, dataclasses.replace(config.model, layers=4))
    )
    sizes.append(two - one)
  # A layer's products alone are half as large; the attention's matrix is a quarter.
  assert 0.2 * sizes[0] < sizes[1] < 0.55 * sizes[0]


@pytest.mark.parametrize(
  ('section', 'settings'),
  [
    ('model', {'dtype': 'bfloat16'}),
    ('mesh', {'fsdp': 8}),
    ('train', {'grad_accum_steps': 4}),
    ('model', {'scan': True, 'remat': 'block'}),
  ],
)
def test_each_change_needs_less(section, settings):
  deep = changed('model', layers=12)
  before = sum(estimate(deep, 8, 'gpu').values())
  section_after = dataclasses.replace(getattr(deep, section), **settings)
  after = estimate(dataclasses.replace(deep, **{section: section_after}), 8, 'gpu')
  assert sum(after.values()) < before
  assert all(size >= 0 for size in after.values())


def test_blockwise_attention_does_not_count_the_full_matrix():
  model = dataclasses.replace(TINY.model, patch=(2, 2, 2))
  clip = Clip(frames=2, height=96, width=96)  # 2,305 tokens: 48 x 48 and cls
  config = dataclasses.replace(TINY, clip=clip, model=model)
  plain = dataclasses.replace(config, model=dataclasses.replace(model, attention_kernel='plain'))
  name, matrix = 'saved for the backward pass', 4 * 2 * 2305**2 * 4  # a layer's in float32
  assert estimate(config, 8, 'gpu')[name] < matrix < estimate(plain, 8, 'gpu')[name]


def test_sets_of_changes_come_cheapest_first_as_settings():
  found = changes(TINY, 8)
  assert [change.name for change in found] == ['bfloat16', 'fsdp', 'accumulate', 'remat', 'context']
  sets = [tuple(change.name for change in made) for made in combinations(found)]
  assert sets[:4] == [(), ('bfloat16',), ('fsdp',), ('bfloat16', 'fsdp')]
  assert ('accumulate', 'context') not in sets, 'both set how many clips are summed over'
  config = with_changes(TINY, tuple(found[:3]))
  assert config.model.dtype == 'bfloat16'
  assert (config.mesh, config.train.grad_accum_steps) == (Mesh(fsdp=8), 4)
  assert changes(config, 8)[0].name == 'remat'


def test_the_cheapest_that_fits_is_named_with_its_settings():
  everything = search(TINY, 8, 10**9, None)
  assert everything[0].fits
  assert report.verdict(everything) == 'It fits by the estimate as given.'
  as_given, bfloat16 = (sum(trial.sizes.values()) for trial in everything[:2])
  trials = search(TINY, 8, (as_given + bfloat16) // 2, None)
  assert report.verdict(trials).endswith('by the estimate with --config.model.dtype=bfloat16')
  assert not any(trial.fits for trial in search(TINY, 8, 1000, None))
  assert 'None of these changes makes it fit' in report.verdict(search(TINY, 8, 1000, None))


def test_a_compiler_decides_and_stops_at_the_first_that_fits():
  asked = []

  def compiler(config):
    asked.append(config.model.dtype)
    return ({}, 'too large') if config.model.dtype == 'float32' else ({'temporaries': 5}, '')

  trials = search(TINY, 8, 10**9, compiler)
  assert asked == ['float32', 'bfloat16']
  assert [trial.fits for trial in trials[:2]] == [False, True]
  assert 'as given: too large' in report.as_text(TINY, 8, trials, 10**9)
  assert json.loads(report.as_json(trials, 10**9))['fits_with'] == ['--config.model.dtype=bfloat16']


def test_the_command_prints_a_table_and_json(capsys):
  small = ['--config.model.layers=1', '--config.model.remat=block', '--config.mesh.fsdp=8']
  gpus = ['--device-memory=80GB', '--devices=8']
  arguments = ['plan', '--config=configs/moving_digits.py', *small, *gpus]
  assert main.main(arguments) == 0
  text = capsys.readouterr().out
  assert 'It fits by the estimate as given.' in text
  assert 'one step of 32 clips on 8 devices' in text
  assert main.main([*arguments, '--json']) == 0
  assert json.loads(capsys.readouterr().out)['fits_with'] == []


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--topology=v9:8x8'], '--topology=v9:8x8 is not GENERATION:SHAPE'),
    (['--topology=v5e:2x2', '--devices=8'], 'give either --topology'),
    (['--device=h100', '--device-memory=80GB', '--devices=8'], 'give either --topology'),
    (['--device=a100', '--devices=8'], '--device=a100 is not known'),
    (['--device-memory=80GB'], 'give either --topology'),
    (['--device-memory=80', '--devices=8'], '--device-memory=80 is not a size'),
    (['--device-memory=80GB', '--devices=0'], '--devices=0 is not a number'),
    (['--device-memory=80GB', '--devices=7'], 'config.train.batch_size=32 is not divisible'),
  ],
)
def test_mistakes_in_a_plan_are_one_line(arguments, message, capsys):
  assert main.main(['plan', '--config=configs/moving_digits.py', *arguments]) == 2
  assert message in capsys.readouterr().err


def test_units():
  assert parse_memory('80GB') == 80 * 10**9
  assert parse_memory('1.5GiB') == 3 * 2**29
  assert parse_topology('v5e:8x8') == (64, 16 * 2**30)
  assert parse_topology('v5p:2x2x4')[0] == 16


@pytest.mark.parametrize('topology', ['v5e:2x2', 'h100:8'])
def test_a_compiler_that_is_missing_or_of_another_jax_is_named(topology, monkeypatch):
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: '0.0.1')
  with pytest.raises(ConfigError, match=r'0\.0\.1 does not match jax, which needs 0\.'):
    Compiler(topology, 60.0)

  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'version', missing)
  with pytest.raises(ConfigError, match=r"pip install 'vivit_jax\[plan\]'"):
    Compiler(topology, 60.0)


def test_an_h100_without_its_compiler_is_estimated_and_says_so(capsys, monkeypatch):
  def missing(name):
    raise importlib.metadata.PackageNotFoundError(name)

  monkeypatch.setattr(importlib.metadata, 'version', missing)
  arguments = ['plan', '--config=configs/moving_digits.py', '--device=h100', '--devices=8']
  assert main.main(arguments) == 0
  said = capsys.readouterr()
  assert 'using an estimate instead' in said.err
  assert 'It fits by the estimate as given.' in said.out


@NEEDS_LIBTPU
@pytest.mark.faults
def test_the_compiler_for_tpus():
  sizes, refusal = Compiler('v5e:2x4', 600.0)(TINY)
  assert not refusal
  estimated = estimate(TINY, 8, 'tpu')
  state = estimated['parameters'] + estimated['optimizer state and averages']
  assert sizes['state and batch'] > state
  with pytest.raises(ConfigError, match='not divisible'):
    Compiler('v5e:3x7', 600.0)(TINY)
  with pytest.raises(ConfigError, match='not compiled within 1 s'):
    Compiler('v5e:2x4', 1.0)(TINY)
