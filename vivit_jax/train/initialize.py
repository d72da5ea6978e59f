# SPDX-License-Identifier: Apache-2.0
"""The state at the start of a run: restored from the workdir, or initialized."""

import optax
from jax.sharding import Mesh

from vivit_jax.checkpoint.fingerprint import describe
from vivit_jax.checkpoint.manager import Checkpoints
from vivit_jax.config.schema import Config
from vivit_jax.distributed import hosts
from vivit_jax.distributed.sharding import shard_state, with_sharding
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.model.vivit import ViViT
from vivit_jax.train.state import TrainState, abstract_state, init_state, start_from
from vivit_jax.weights.pretrained import initialize_params


def restore_or_init(
  config: Config,
  model: ViViT,
  optimizer: optax.GradientTransformation,
  mesh: Mesh,
  checkpoints: Checkpoints,
) -> TrainState:
  """Returns the newest undamaged state of the workdir, or else the initial state."""
  abstract = with_sharding(mesh, abstract_state(config, model, optimizer))
  checkpoints.check_best(abstract.eval_params)
  restored = checkpoints.restore_newest(abstract)
  if restored is not None:
    return restored
  return shard_state(mesh, initial_state(config, model, optimizer))


def initial_state(
  config: Config, model: ViViT, optimizer: optax.GradientTransformation
) -> TrainState:
  """Returns the initial state, with the weights of init.checkpoint if it is set.

  Prints which weights were loaded.

  Raises:
    ConfigError: the weights are invalid, or differ between processes.
  """
  state, source = init_state(config, model, optimizer), config.init.checkpoint
  if source is None:
    return state
  try:
    params, table = initialize_params(config, state.params)
  except UserError as error:
    reason = str(error).removeprefix(f'{source}: ')
    raise ConfigError(f'config.init.checkpoint={source}: {reason}') from None
  if hosts.processes() > 1:
    hosts.assert_equal_on_all_hosts(
      {f'{name} of {source}': bits for name, (_, bits) in describe(params).items()}
    )
  print(table, flush=True)
  return start_from(config, state, params)
