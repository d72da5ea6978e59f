# SPDX-License-Identifier: Apache-2.0
"""Exports: the same logits from other programs, and nothing left of those that answer otherwise."""

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from support.working_models import LABELS, VARIANTS, pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Task
from vivit_jax.errors import CheckpointError
from vivit_jax.inference import export as module
from vivit_jax.inference import onnx_export, stablehlo
from vivit_jax.inference.export import ExportError, make_export


def run_onnx(file, video):
  session = onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])
  return session.run(['logits'], {'video': video})[0]


def expected(export, video):
  return np.asarray(jax.jit(export.forward)(export.pretrained.params, video))


@pytest.mark.parametrize('attention, pooling', VARIANTS)
@pytest.mark.parametrize('uint8', [True, pytest.param(False, marks=pytest.mark.faults)])
def test_onnx_gives_the_same_logits_for_any_batch(tmp_path, attention, pooling, uint8):
  sees = {'mean': (0.0, 0.25, 0.4), 'std': (1.0, 0.25, 0.2), 'channels': 'bgr'}
  export = make_export(pretrained(attention, pooling=pooling, sees=sees), uint8)
  assert onnx_export.write(export, tmp_path / 'x.onnx') < 1e-4
  assert [file.name for file in tmp_path.iterdir()] == ['x.onnx']
  for batch in (1, 2, 5):
    video = export.clips(batch)
    found = run_onnx(tmp_path / 'x.onnx', video)
    np.testing.assert_allclose(found, expected(export, video), atol=1e-4)
    assert np.ptp(found, axis=1).min() > 0.1


@pytest.mark.faults
@pytest.mark.parametrize(
  'changes',
  [
    {'temporal_layers': 0},
    {'gelu': 'exact', 'norm_epsilon': 1e-3},
    {'attention': 'factorised_self_attention', 'order': 'time_space'},
    {'tokenizer': 'uniform_frame_sampling', 'sampled_frames': 4, 'patch': (1, 16, 16)},
    {'dtype': 'bfloat16', 'scan': True, 'remat': 'block', 'attention_kernel': 'blockwise'},
  ],
  ids=lambda changes: next(iter(changes)),
)
def test_every_setting_of_a_model_is_exported(tmp_path, changes):
  export = make_export(pretrained(**changes))
  onnx_export.write(export, tmp_path / 'x.onnx')
  video = export.clips(2)
  np.testing.assert_allclose(
    run_onnx(tmp_path / 'x.onnx', video), expected(export, video), atol=1e-4
  )
  stablehlo.write(export, tmp_path / 'y')


def test_a_fixed_batch_is_in_the_file(tmp_path):
  onnx_export.write(make_export(pretrained(), batch=2), tmp_path / 'x.onnx')
  (video,) = onnx.load(tmp_path / 'x.onnx').graph.input
  assert [d.dim_value for d in video.type.tensor_type.shape.dim] == [2, 8, 32, 48, 3]


def test_large_models_have_their_parameters_beside_the_file(tmp_path):
  export = make_export(pretrained())
  onnx_export.write(export, tmp_path / 'x.onnx', external=1000)
  assert sorted(f.name for f in tmp_path.iterdir()) == ['x.onnx', 'x.onnx.data']
  assert (tmp_path / 'x.onnx.data').stat().st_size > (tmp_path / 'x.onnx').stat().st_size
  moved = tmp_path / 'elsewhere'
  moved.mkdir()
  for name in ('x.onnx', 'x.onnx.data'):
    (tmp_path / name).rename(moved / name)
  video = export.clips(1)
  np.testing.assert_allclose(run_onnx(moved / 'x.onnx', video), expected(export, video), atol=1e-4)


def test_metadata_tells_labels_clip_and_preprocessing(tmp_path):
  model = pretrained(sees={'short_side': 40, 'stride': 3})
  onnx_export.write(make_export(model, uint8=False), tmp_path / 'x.onnx')
  held = onnxruntime.InferenceSession(str(tmp_path / 'x.onnx')).get_modelmeta()
  found = {name: json.loads(text) for name, text in held.custom_metadata_map.items()}
  assert tuple(found['labels']) == LABELS
  assert (found['clip']['frames'], found['clip']['stride']) == (8, 3)
  assert found['preprocessing']['short_side'] == 40
  assert found['preprocessing']['mean'] == [0.5, 0.5, 0.5]
  assert found['input']['type'] == 'float32'
  assert 'pixel / 255 - mean' in found['input']['values']


@pytest.mark.parametrize('kind', ['onnx', 'stablehlo'])
def test_a_program_that_answers_otherwise_leaves_nothing(tmp_path, kind, monkeypatch, capsys):
  checkpoint = str(save(pretrained(), tmp_path / 'x.safetensors'))
  # What is exported has another epsilon than what it is compared with.
  real = module.Export.forward

  def other(self, params, video):
    config = dataclasses.replace(self.pretrained.model.config, norm_epsilon=0.1)
    changed = dataclasses.replace(self.pretrained, model=self.pretrained.model.clone(config=config))
    return real(dataclasses.replace(self, pretrained=changed), params, video)

  if kind == 'onnx':
    monkeypatch.setattr(module.Export, 'forward', other)
  else:
    write = stablehlo._serialize

    def serialize(export):
      with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Export, 'forward', other)
        return write(export)

    monkeypatch.setattr(stablehlo, '_serialize', serialize)
  assert main(['export', checkpoint, str(tmp_path / 'out'), f'--to={kind}']) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert 'the logits of the exported program are off by' in line
  assert 'nothing was written' in line
  assert [file.name for file in tmp_path.iterdir()] == ['x.safetensors']


def test_logits_that_are_no_numbers_are_refused(tmp_path):
  model = pretrained()
  params = {**model.source.params, 'head/bias': np.full(6, np.nan, np.float32)}
  model = dataclasses.replace(model, source=dataclasses.replace(model.source, params=params))
  with pytest.raises(ExportError, match='off by nan'):
    onnx_export.write(make_export(model), tmp_path / 'x.onnx')
  assert not list(tmp_path.iterdir())


def test_an_operation_that_cannot_be_exported_is_named(tmp_path):
  model = pretrained()
  params = {**model.source.params, 'spatial/block_0/gate/kernel': np.zeros(3, np.float32)}
  odd = dataclasses.replace(model, source=dataclasses.replace(model.source, params=params))
  with pytest.raises(CheckpointError, match='cannot be exported to ONNX: spatial/block_0/gate/ker'):
    onnx_export.write(make_export(odd), tmp_path / 'x.onnx')

  def call_back(self, params, video):
    return jax.pure_callback(
      lambda x: x, jax.ShapeDtypeStruct((video.shape[0], 6), np.float32), video[:, 0, 0, :6, 0]
    )

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(module.Export, 'forward', call_back)
    with pytest.raises(ExportError, match=r'cannot be exported: .*callback'):
      stablehlo.write(make_export(model, uint8=False), tmp_path / 'y')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('attention, pooling', VARIANTS[::3])
def test_stablehlo_runs_where_this_package_is_not(tmp_path, attention, pooling):
  export = make_export(pretrained(attention, pooling=pooling))
  stablehlo.write(export, tmp_path / 'x')
  program = (
    'import sys\n'
    'class Absent:\n'
    '  def find_spec(self, name, path=None, target=None):\n'
    '    if name.split(".")[0] in ("vivit_jax", "flax", "einops", "optax"):\n'
    '      raise ModuleNotFoundError(name)\n'
    'sys.meta_path.insert(0, Absent())\n'
    'import jax, numpy\n'
    'exported = jax.export.deserialize(bytearray(open("x/program.bin", "rb").read()))\n'
    'params = dict(numpy.load("x/params.npz"))\n'
    'for n in (1, 3):\n'
    '  numpy.save(f"{n}.npy", exported.call(params, numpy.load(f"video{n}.npy")))\n'
  )
  for batch in (1, 3):
    np.save(tmp_path / f'video{batch}.npy', export.clips(batch))
  subprocess.run([sys.executable, '-P', '-c', program], cwd=tmp_path, check=True)
  for batch in (1, 3):
    found = np.load(tmp_path / f'{batch}.npy')
    np.testing.assert_allclose(found, expected(export, export.clips(batch)), atol=1e-5)
  about = json.loads((tmp_path / 'x' / 'metadata.json').read_text())
  assert about['platforms'] == ['cpu', 'cuda', 'tpu']
  assert tuple(about['labels']) == LABELS


@pytest.mark.parametrize(
  'arguments, reason',
  [
    (['x.safetensors', '--to=onnx'], 'x.safetensors exists: give another TARGET'),
    (['none/x.onnx', '--to=onnx'], 'none does not exist'),
    (['x.onnx', '--to=onnx', '--batch=0'], '--batch=0 is not a number of clips'),
    (['x.onnx', '--to=onnx', '--batch=few'], '--batch=few is not a number of clips'),
    (['x', '--to=page', '--input=float'], '--to=page takes neither'),
    (['x', '--to=onnx', '--runtime=y'], 'is only for --to=page'),
    (['x', '--to=page', '--runtime=y'], 'y is not'),
  ],
)
def test_an_export_that_cannot_be_is_one_line(tmp_path, arguments, reason, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save(pretrained(), tmp_path / 'x.safetensors')
  assert main(['export', 'x.safetensors', *arguments]) == 2
  assert reason in capsys.readouterr().err.splitlines()[-1]
  assert [file.name for file in tmp_path.iterdir()] == ['x.safetensors']


def test_a_model_without_a_classifier_is_refused():
  model = pretrained()
  bare = dataclasses.replace(model, source=dataclasses.replace(model.source, task=None))
  with pytest.raises(CheckpointError, match='no classifier'):
    make_export(bare)
  two = pretrained(task=Task(heads=('verb', 'noun'), classes=(2, 3)))
  assert make_export(two).metadata()['task']['heads'] == ('verb', 'noun')
