# SPDX-License-Identifier: Apache-2.0
"""Masked pretraining as a run: steps, resumption, meshes, evaluation, and what starts from it."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from support.runs import ROOT, TINY, rows, saved_state, settings
from support.steps import assert_bitwise_equal, changed, train
from vivit_jax.cli.main import main
from vivit_jax.config.file import load
from vivit_jax.config.schema import Masked, Mesh, Task
from vivit_jax.errors import CheckpointError, ConfigError
from vivit_jax.model.masking import draw_places
from vivit_jax.model.vivit import build
from vivit_jax.train.initialize import initial_state
from vivit_jax.train.masked import places_of_step, places_of_videos
from vivit_jax.train.optimizer import make_optimizer
from vivit_jax.weights.architecture import with_architecture
from vivit_jax.weights.pretrained import load_run

CONFIG = 'configs/pretrain.py:Ti/16x2,factorised_encoder'
MASKED = Masked(0.5, decoder_layers=1, decoder_width=12, decoder_heads=2, decoder_mlp_dim=24)
SMALL = {
  'clip.stride': 2,
  'model.patch': (2, 8, 8),
  'masked.ratio': 0.7,
  'masked.decoder_layers': 1,
  'masked.decoder_width': 16,
  'masked.decoder_heads': 2,
  'masked.decoder_mlp_dim': 32,
  'data.source': 'moving_digits',
  'task.heads': "('verb',)",
  'train.learning_rate': 1e-3,
  'augment.repeated_augmentation': 2,
}


def masked(attention='spatio_temporal', mesh=None, masked=MASKED, train=None, **model):
  """Returns a tiny experiment: 2 x 2 x 4 tokens, half of the places visible."""
  own = {'attention': attention, 'pooling': 'none', 'temporal_layers': 1}
  own |= {'dropout': 0.0, 'drop_path': 0.0}
  clip = {'frames': 4, 'height': 16, 'width': 32}
  return changed(
    task=Task('masked', (), ()), model=own | model, clip=clip, masked=masked, mesh=mesh or Mesh(),
    train={'learning_rate': 0.05, **(train or {})},
  )  # fmt: skip


def batches(config, rng, count=3):
  clip, size = config.clip, config.train.batch_size
  shape = (size, clip.frames, clip.height, clip.width, 3)
  label = np.zeros((size, 4))
  return [
    {'video': rng.integers(256, size=shape, dtype=np.uint8), 'label': label} for _ in range(count)
  ]


@pytest.mark.parametrize(
  'attention, mesh',
  [
    pytest.param('spatio_temporal', Mesh(data=8), marks=pytest.mark.faults),
    ('factorised_encoder_by_patch', Mesh(data=2, fsdp=2, context=2)),
    pytest.param('factorised_self_attention', Mesh(data=4, context=2), marks=pytest.mark.faults),
    pytest.param('factorised_dot_product', Mesh(data=1, fsdp=8), marks=pytest.mark.faults),
  ],
)
def test_eight_devices_train_as_one(attention, mesh, rng):
  config = masked(attention)
  given = batches(config, rng)
  one, history = train(config, given)
  many, same = train(dataclasses.replace(config, mesh=mesh), given, devices=8)
  assert {'loss', 'gradient_norm', 'skipped_updates'} == set(history[0])
  for a, b in zip(history, same, strict=True):
    assert a['loss'] == pytest.approx(b['loss'], rel=2e-5)
  for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.faults
def test_remat_scan_and_parts_of_a_batch_change_nothing(rng):
  config = masked(layers=2)
  given = batches(config, rng, 2)
  other = masked(layers=2, scan=True, remat='block', train={'grad_accum_steps': 2})
  found = [[row['loss'] for row in train(one, given)[1]] for one in (config, other)]
  np.testing.assert_allclose(*found, rtol=2e-5)


def test_a_mask_depends_on_seed_and_step_or_video_alone():
  config = masked()
  keys = [jax.random.fold_in(jax.random.key(seed), step) for seed, step in ((0, 3), (0, 4), (1, 3))]
  first, later, other = (np.asarray(places_of_step(config, key, 8)) for key in keys)
  assert not np.array_equal(first, later)
  assert not np.array_equal(first, other)
  np.testing.assert_array_equal(places_of_step(config, keys[0], 8), first)
  np.testing.assert_array_equal(draw_places(jax.random.split(keys[0], 8), 8), first)
  videos = jnp.array([3, 5, 9])
  found = np.asarray(places_of_videos(config, videos))
  np.testing.assert_array_equal(places_of_videos(config, videos[::-1]), found[::-1])
  assert len({tuple(row) for row in found.tolist()}) > 1


@pytest.fixture(scope='module')
def arguments():
  own = {name.replace('.', '__'): value for name, value in (TINY | SMALL).items()}
  own |= {'model__dropout': 0.0, 'model__drop_path': 0.0}
  return settings(CONFIG, **own)


@pytest.fixture(scope='module')
def run(tmp_path_factory, arguments, compiled_once):
  """A pretraining run of 24 steps on one device."""
  workdir = tmp_path_factory.mktemp('masked') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    devices = jax.devices()[:1]
    patch.setattr(jax, 'devices', lambda: devices)
    assert main(['train', *arguments, f'--workdir={workdir}']) == 0
  return workdir


def test_a_run_without_labels_or_with_a_probe(run, tmp_path, arguments, one_device, capsys):
  report = json.loads((run / 'report.json').read_text())
  assert set(report) >= {'loss', 'knn_top1', 'videos', 'step', 'split'}
  assert report['videos'] == 21
  assert len(list(run.glob('reconstruction_*.png'))) == 6
  page = (run / 'report.html').read_text()
  assert page.count('data:image/png') == 7
  assert 'what the encoder sees of it' in page
  validations = [row for row in rows(run) if 'validation_loss' in row]
  assert all(0 <= row['validation_knn_top1'] <= 1 for row in validations)
  # The same without labels, and evaluated again by the command.
  bare = ['--config.task.heads=()', '--config.train.steps=2', f'--workdir={tmp_path / "bare"}']
  assert main(['train', *arguments, *bare]) == 0
  assert 'knn_top1' not in json.loads((tmp_path / 'bare' / 'report.json').read_text())
  assert main(['evaluate', f'--workdir={run}', '--split=validation']) == 0
  assert 'validation: loss' in capsys.readouterr().out
  assert main(['evaluate', f'--workdir={run}', '--views=2x1']) == 2
  assert 'leave out --views' in capsys.readouterr().err


def test_a_resumed_run_is_that_of_one_go(run, tmp_path, arguments, one_device):
  """Also with another number of workers: neither clips nor masks depend on them."""
  again, config = tmp_path / 'again', load(arguments)
  shutil.copytree(run, again)
  shutil.rmtree(again / 'checkpoints' / '24')
  assert main(['train', *arguments, '--config.data.workers=2', f'--workdir={again}']) == 0
  assert_bitwise_equal(saved_state(config, again, 24), saved_state(config, run, 24))


def test_a_pretrained_run_starts_a_classifier(run, tmp_path, one_device, capsys):
  pretrained = load_run(run)
  assert pretrained.source.task is None
  assert set(pretrained.params) == {'tokenizer', 'spatial', 'temporal'}
  with pytest.raises(CheckpointError, match='fine-tune it first'):
    pretrained.source.normalization()
  assert main(['predict', f'--checkpoint={run}', str(tmp_path)]) == 2
  assert 'vivit train --config=configs/finetune.py' in capsys.readouterr().err
  finetune = [
    f'--config={ROOT}/configs/finetune.py', f'--config.init.checkpoint={run}',
    '--config.data.source=moving_digits', "--config.task.heads=('verb',)",
    *(f'--config.{name}={value}' for name, value in TINY.items() if name.startswith('data.')),
    '--config.augment.flip=off', '--config.train.steps=2', '--config.evaluate.batch_size=8',
    '--config.train.layer_decay=0.75', '--config.evaluate.temporal_views=1',
    '--config.evaluate.spatial_views=1',
  ]  # fmt: skip
  config = with_architecture(load(finetune))
  assert config.model.attention == 'factorised_encoder'
  assert config.model.pooling == 'mean'
  assert (config.clip.frames, config.clip.height, config.clip.stride) == (4, 32, 2)
  assert main(['train', *finetune, f'--workdir={tmp_path / "fine"}']) == 0
  out = capsys.readouterr().out
  assert 'fresh     head' in out
  assert '1 fresh' in out or '2 fresh' in out
  report = json.loads((tmp_path / 'fine' / 'report.json').read_text())
  assert 'top1' in report


def test_pretraining_continues_from_videomae_with_its_decoder():
  folder = ROOT / 'tests/reference/huggingface/videomae_pretraining'
  config = load([
    f'--config={ROOT}/configs/pretrain.py:Ti/16x2',
    f'--config.init.checkpoint={folder}',
    *('--config.model.' + setting for setting in (
      'layers=2', 'width=32', 'mlp_dim=64', 'heads=4', 'patch=(2,8,8)', 'positions=sincos',
      'gelu=exact', 'norm_epsilon=1e-12', 'key_bias=False', 'final_norm=none',
    )),
    *('--config.masked.decoder_' + setting for setting in (
      'layers=2', 'width=24', 'heads=3', 'mlp_dim=48',
    )),
    '--config.clip.frames=8', '--config.clip.height=32', '--config.clip.width=32',
    '--config.masked.ratio=0.7',
  ])  # fmt: skip
  clip = dataclasses.replace(config.clip, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
  config = dataclasses.replace(config, clip=clip)
  model = build(config)
  state = initial_state(config, model, make_optimizer(config.train, 10))
  held = safetensors.numpy.load_file(folder / 'model.safetensors')
  np.testing.assert_array_equal(state.params['decoder']['mask_token'], held['mask_token'])
  np.testing.assert_array_equal(
    state.params['decoder']['out']['kernel'], held['decoder.head.weight'].T
  )
  other = dataclasses.replace(
    config, masked=dataclasses.replace(config.masked, decoder_width=12, decoder_heads=3)
  )
  with pytest.raises(ConfigError, match='decoder/block_0'):
    initial_state(other, build(other), make_optimizer(config.train, 10))


REFUSED = (
  ({'masked.ratio': 1.0}, 'config.masked.ratio=1.0 leaves none visible'),
  ({'masked.ratio': 0.01}, 'config.masked.ratio=0.01 hides none of the 16 places'),
  ({'masked.decoder_width': 10, 'masked.decoder_heads': 4}, 'config.masked.decoder_width=10'),
  (
    {'masked.decoder_attention': 'factorised_dot_product', 'masked.decoder_heads': 1},
    'config.masked.decoder_heads=1 must be even',
  ),
  ({'model.pooling': 'mean'}, "config.model.pooling='mean' leaves one token"),
  ({'model.attention': 'factorised_encoder', 'model.pooling': 'mean'}, 'pools patches before time'),
  (
    {'model.attention': 'spatio_temporal', 'model.positions': 'rotary_tiled'},
    'a part of the token',
  ),
  ({'train.label_smoothing': 0.1}, 'config.train.label_smoothing=0.1 is for classification'),
  ({'mix.mixup': 0.8}, 'config.mix.mixup=0.8 is for classification'),
  ({'task.classes': (8,)}, 'config.task.classes=(8,) is for classification'),
  ({'train.balanced_loss': True}, 'config.train.balanced_loss=True is for classification'),
  ({'data.balance': 'verb'}, 'config.data.balance'),
  ({'mesh.context': 3}, 'config.mesh.context=3 does not divide the 5 visible places'),
)


@pytest.mark.parametrize('overrides, message', REFUSED)
def test_what_contradicts_a_masked_task_is_one_line(overrides, message, arguments):
  changes = [f'--config.{name}={value}' for name, value in overrides.items()]
  with pytest.raises(ConfigError) as info:
    load([*arguments, *changes])
  assert message in str(info.value)
  assert len(str(info.value).splitlines()) == 1


def test_one_batch_cannot_be_learned_by_heart(arguments, capsys):
  assert main(['train', *arguments, '--overfit-one-batch']) == 2
  assert 'hides other patches at every step' in capsys.readouterr().err


def test_architecture_of_the_checkpoint_needs_one():
  with pytest.raises(ConfigError, match='needs weights'):
    with_architecture(load([f'--config={ROOT}/configs/finetune.py']))
  image = ROOT / 'tests/reference/huggingface/vit'
  given = [f'--config={ROOT}/configs/finetune.py', f'--config.init.checkpoint={image}']
  with pytest.raises(ConfigError, match='image model'):
    with_architecture(load(given))


def test_videos_without_labels_are_indexed(tmp_path, capsys):
  for name in ('a/one.mp4', 'a/two.mp4', 'three.mp4', 'four.mp4', 'five.mp4'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b'')
  assert main(['data', 'index', str(tmp_path)]) == 2
  assert '--format=unlabeled' in capsys.readouterr().err
  assert main(['data', 'index', str(tmp_path), '--format=unlabeled']) == 0
  assert '--config=pretrain:B/16x2' in capsys.readouterr().out
  lines = [
    line for split in ('train', 'validation')
    for line in (tmp_path / f'{split}.csv').read_text().splitlines()[1:]
  ]  # fmt: skip
  assert len(lines) == 5
  assert not (tmp_path / 'classes').exists()
