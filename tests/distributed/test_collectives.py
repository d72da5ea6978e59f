# SPDX-License-Identifier: Apache-2.0
"""Devices send each other parameters and gradients, each once, and no activations."""

import dataclasses

import jax
import pytest

from vivit_jax.config.schema import Clip, Config, Evaluate, Mesh, Model, Task, Train
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.plan.memory import abstract_training, lower_step
from vivit_jax.plan.program import Program

# One clip's activations are many times its parameters, so that any that travel are seen.
CONFIG = Config(
  task=Task(classes=(16,)),
  model=Model(
    attention='factorised_encoder', layers=1, temporal_layers=1,
    width=32, mlp_dim=128, heads=2, patch=(2, 8, 8),
  ),
  clip=Clip(frames=8, height=64, width=64),
  train=Train(batch_size=16),
  evaluate=Evaluate(batch_size=16),
)  # fmt: skip


@pytest.mark.parametrize('mesh', [Mesh(), Mesh(data=1, fsdp=8)], ids=['data', 'fsdp'])
def test_a_step_sends_parameters_and_gradients_alone(mesh):
  config = dataclasses.replace(CONFIG, mesh=mesh)
  params = jax.tree.leaves(abstract_training(config)[2].params)
  size = sum(leaf.size * leaf.dtype.itemsize for leaf in params)
  sent = {'all-reduce': 0, 'all-gather': 0}
  program = lower_step(config, make_mesh(config)).compile().as_text()
  for kind, array, times in Program(program).collectives():
    sent[kind] += array * times  # nothing else, above all no all-to-all
  assert size <= sent['all-reduce'] < 1.05 * size  # and losses, norms and metrics
  assert sent['all-gather'] < (1.05 * size if mesh.fsdp > 1 else 1)
