# SPDX-License-Identifier: Apache-2.0
"""Every model compiles forwards and backwards for an H100 and a TPU, with the promised kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from vivit_jax.config.parse import check
from vivit_jax.config.schema import Clip, Config, Evaluate, Mesh, Model, Task, Train
from vivit_jax.errors import ConfigError
from vivit_jax.model.cost import model_cost
from vivit_jax.model.vivit import build
from vivit_jax.plan.targets import check_compiler, devices

pytestmark = pytest.mark.compiled

# All pairs of the columns: model, pooling, type, frames, height x width, dropout of weights.
# 224x224 has 196 tokens of space and cls, 208x240 an odd 195 of 13 x 15.
SQUARE, ODD = (224, 224), (208, 240)
ST, FE = 'spatio_temporal', 'factorised_encoder'
SA, DP = 'factorised_self_attention', 'factorised_dot_product'
MATRIX = [
  (ST, 'cls', 'bfloat16', 32, SQUARE, 0.0),
  (ST, 'mean', 'bfloat16', 128, ODD, 0.0),
  (ST, 'cls', 'float32', 128, SQUARE, 0.0),
  (ST, 'mean', 'float32', 32, ODD, 0.1),
  (FE, 'cls', 'bfloat16', 32, SQUARE, 0.0),
  (FE, 'mean', 'bfloat16', 128, ODD, 0.1),
  (FE, 'cls', 'float32', 128, ODD, 0.1),
  (FE, 'mean', 'float32', 32, SQUARE, 0.0),
  (SA, 'mean', 'bfloat16', 32, ODD, 0.0),
  (SA, 'mean', 'bfloat16', 128, SQUARE, 0.1),
  (SA, 'mean', 'float32', 128, ODD, 0.0),
  (SA, 'mean', 'float32', 32, SQUARE, 0.1),
  (DP, 'mean', 'bfloat16', 32, SQUARE, 0.1),
  (DP, 'mean', 'bfloat16', 128, ODD, 0.0),
  (DP, 'mean', 'float32', 128, SQUARE, 0.0),
  (DP, 'mean', 'float32', 32, ODD, 0.1),
]


@pytest.fixture(scope='module', autouse=True)
def compiler():
  try:
    check_compiler('h100:1')
  except ConfigError as error:
    pytest.fail(str(error))


def experiment(attention, pooling, dtype, frames, size, dropout, **changes):
  model = Model(
    attention=attention, pooling=pooling, dtype=dtype, attention_dropout=dropout,
    layers=1, temporal_layers=1, width=192, mlp_dim=768, heads=4 if attention == DP else 3,
  )  # fmt: skip
  config = Config(
    task=Task(classes=(400,)),
    model=model,
    clip=Clip(frames=frames, height=size[0], width=size[1]),
    train=Train(batch_size=2),
    evaluate=Evaluate(batch_size=2),
  )
  config = dataclasses.replace(config, **changes)
  check(config)
  return config


def figures(config, topology='h100:1'):
  """Returns the roofline of a step on one TPU or all GPUs, and its text."""
  from vivit_jax.plan.compile import compile_step_for
  from vivit_jax.plan.roofline import roofline, useful_flops
  from vivit_jax.plan.targets import TARGETS

  found = devices(topology)
  found = found if topology.startswith('h100') else found[:1]
  program = compile_step_for(config, found)
  text = program.as_text()
  temporary = program.memory_analysis().temp_size_in_bytes
  useful = useful_flops(config)
  target = TARGETS[topology.partition(':')[0]]
  return roofline(text, target, useful, len(found), temporary), text


def least_flops(config, found):
  """Returns the useful ones but for the gradient of pixels, a third of the tokenizer's share."""
  tokenizer = model_cost(build(config), config.clip).parts['tokenizer']['matmul_gflops']
  return found.useful_flops - 2e9 * tokenizer * config.train.batch_size


@pytest.mark.parametrize(
  'case', MATRIX, ids=lambda c: '-'.join(str(part).replace(' ', '') for part in c)
)
def test_a_step_compiles_with_all_its_attention_and_no_branch(case):
  attention, _, dtype, _, _, dropout = case
  found, text = figures(experiment(*case))
  assert found.conditionals == 0
  assert found.flops > 0.98 * least_flops(experiment(*case), found)
  fast = dtype == 'bfloat16' and not dropout
  assert ('fmha' in text) == fast, 'cuDNN attention'
  print(
    f'\n{attention} {case[1:]}: {found.milliseconds:.2f} ms, {found.temporary_bytes / 1e9:.2f} GB, '
    f'{found.kernels} kernels'
  )


@pytest.mark.parametrize(('case', 'kernel'), [(MATRIX[0], 'splash_mha'), (MATRIX[4], 'short')])
def test_the_kernels_of_tpus_have_flops(case, kernel):
  check_compiler('v5e:2x2')
  found, text = figures(experiment(*case), 'v5e:2x2')
  assert found.conditionals == 0
  assert 'tpu_custom_call' in text
  assert ('splash_mha' in text) == (kernel == 'splash_mha')
  assert found.flops > 0.98 * least_flops(experiment(*case), found)
  assert found.compiler_milliseconds > found.milliseconds


@pytest.mark.parametrize(('topology', 'device'), [('h100:1', 'H100'), ('v5e:2x2', 'TPU v5 lite')])
def test_what_does_not_compile_is_named_on_one_line(topology, device, monkeypatch):
  from vivit_jax.plan.compile import compile_step_for

  check_compiler(topology)

  # An activation that only CPUs have a program for.
  def gelu(x, approximate):
    square = jax.lax.stop_gradient(x).reshape(-1)[:4].reshape(2, 2).astype(jnp.float32)
    return x + jax.scipy.linalg.schur(square)[0].sum().astype(x.dtype)

  monkeypatch.setattr(nn, 'gelu', gelu)
  with pytest.raises(ConfigError) as caught:
    compile_step_for(experiment(*MATRIX[4]), devices(topology)[:1])
  message = str(caught.value)
  assert 'does not compile for' in message
  assert device in message
  assert 'schur' in message
  assert '\n' not in message


@pytest.mark.parametrize('scan', [False, True], ids=['loop', 'scan'])
def test_what_is_kept_decides_how_often_attention_is_computed(scan):
  # Forwards in the loop and backwards: cuDNN's results are kept by all but `block`.
  calls = {}
  for remat in ('elementwise', 'dots', 'attention', 'block'):
    config = experiment(*MATRIX[4])
    model = dataclasses.replace(config.model, layers=3, scan=scan, remat=remat)
    _, text = figures(dataclasses.replace(config, model=model))
    from vivit_jax.plan.program import Program

    rows = Program(text).kernels()
    calls[remat] = sum(row.times for row in rows if 'fmha' in row.kind)
  # The temporal stage's few tokens take the plain product.
  assert calls == {'elementwise': 6, 'dots': 6, 'attention': 6, 'block': 9}


@pytest.mark.parametrize(
  'mesh',
  [Mesh(data=1, fsdp=8), Mesh(data=2, fsdp=4), Mesh(data=1, fsdp=4, context=2)],
  ids=['fsdp', 'data-fsdp', 'fsdp-context'],
)
def test_gradients_are_scattered_and_parameters_travel_once(mesh):
  config = experiment(*MATRIX[4], train=Train(batch_size=8), evaluate=Evaluate(batch_size=8))
  found, _ = figures(dataclasses.replace(config, mesh=mesh), 'h100:8')
  from vivit_jax.plan.memory import abstract_training

  params = abstract_training(config)[2].params
  half = 2 * sum(leaf.size for leaf in jax.tree.leaves(params))
  assert set(found.collectives) <= {'all-gather', 'reduce-scatter', 'all-reduce'}
  assert found.collectives['all-gather'][1] < 1.25 * half
  assert found.collectives['reduce-scatter'][1] < 1.25 * 2 * half  # gradients in float32


@pytest.mark.parametrize('mesh', [Mesh(data=8), Mesh(data=1, fsdp=8)], ids=['data', 'fsdp'])
def test_gradients_are_summed_in_the_type_of_the_setting(mesh):
  config = experiment(
    *MATRIX[4], train=Train(batch_size=8), evaluate=Evaluate(batch_size=8), mesh=mesh
  )
  kind = 'all-reduce' if mesh.data == 8 else 'reduce-scatter'
  sent = {}
  for dtype in ('float32', 'bfloat16'):
    model = dataclasses.replace(config.model, gradient_dtype=dtype)
    found, _ = figures(dataclasses.replace(config, model=model), 'h100:8')
    sent[dtype] = found.collectives[kind][1]
  # Biases, norms and positions are summed in a type of their own.
  assert 1.6 * sent['bfloat16'] < sent['float32'] <= 2 * sent['bfloat16']
