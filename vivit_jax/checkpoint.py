# SPDX-License-Identifier: Apache-2.0
"""Training states on disk: asynchronous, atomic, the newest always kept, the best beside them."""

import contextlib
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from vivit_jax.errors import CheckpointError

CHECKPOINTS = 'checkpoints'
BEST = 'best'


class Checkpoints:
  """The checkpoints of one workdir; a context manager, since leaving without closing loses a save.

  `checkpoints/STEP` holds whole states, the newest `keep` of them. `best/STEP` holds the parameters
  that scored highest so far. They are separate, because Orbax's `best_fn` would delete the newest
  state, and let a NaN push out the true best.
  """

  def __init__(self, workdir: Path, keep: int = 1, *, read_only: bool = False):
    """Opens the checkpoints; where another process may be writing them, open `read_only`."""
    self._states = _manager(workdir / CHECKPOINTS, keep, read_only)
    self._best = _manager(workdir / BEST, 1, read_only)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def close(self) -> None:
    """Waits until every save is on disk."""
    self._states.close()
    self._best.close()

  @property
  def steps(self) -> list[int]:
    """Steps with a whole state, ascending."""
    return sorted(self._states.all_steps())

  @property
  def best_step(self) -> int | None:
    """Step of the best parameters, if any."""
    return self._best.latest_step()

  def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
    """Starts writing a state.

    Args:
      step: its name; a step that exists already is left as it is.
      state: tree of arrays.
      about: what the state needs to be understood: configuration and what identifies the data.
    """
    if step not in self._states.all_steps():
      self._states.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
      )

  def save_best(self, step: int, params: Any, score: float) -> bool:
    """Writes the parameters if they score higher than what is there; NaN ranks worst.

    Returns:
      Whether they did.
    """
    score = -math.inf if math.isnan(score) else score
    if self.best_step is not None and not score > self.best_score():
      return False
    self._best.wait_until_finished()
    self._best.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(params), about=ocp.args.JsonSave({'score': str(score)})
      ),
      force=True,
    )
    return True

  def best_score(self) -> float:
    """Returns the score of the best parameters."""
    self._best.wait_until_finished()
    restored = self._best.restore(
      self.best_step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
    )
    return float(restored.about['score'])

  def restore(self, step: int, abstract: Any) -> Any:
    """Returns the state of a step, placed as the abstract tree's shardings say.

    Raises:
      CheckpointError: where the step is missing or its arrays are not those of `abstract`.
    """
    return _restore(self._states, step, 'state', abstract)

  def read_params(self, wanted: int | Literal['best', 'last']) -> tuple[Any, int]:
    """Returns parameters as a nested dict of NumPy arrays, and their step.

    Args:
      wanted: `best` (the newest state where none was scored yet), `last`, or a step.

    Raises:
      CheckpointError: where there is no such step.
    """
    if wanted == 'best' and self.best_step is not None:
      return _read(self._best, self.best_step, 'params'), self.best_step
    if not isinstance(wanted, int):
      if not self.steps:
        raise CheckpointError(
          f'{self._states.directory.parent} holds no checkpoint: train it first'
        )
      wanted = self.steps[-1]
    state = _read(self._states, wanted, 'state')
    return state.get('average') or state['params'], wanted


def _manager(folder: Path, keep: int, read_only: bool) -> ocp.CheckpointManager:
  if read_only:  # a cleaning reader would delete what the writer has not finished
    options = ocp.CheckpointManagerOptions(
      read_only=True, create=False, max_to_keep=None, save_interval_steps=0
    )
  else:
    # Orbax's own cleaning overlooks what was killed before it had any content.
    for leftover in folder.glob('*.orbax-checkpoint-tmp*') if jax.process_index() == 0 else ():
      shutil.rmtree(leftover)
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
    )
  return ocp.CheckpointManager(folder.absolute(), options=options)


def _restore(manager: ocp.CheckpointManager, step: int, item: str, abstract: Any) -> Any:
  """Returns an item as the abstract tree says, which must be what is on disk."""
  # Orbax would restore float32 as int32, or another width, without a word.
  tree = _metadata(manager, step, item)
  found = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
  folder = f'{manager.directory}/{step}'
  for path, leaf in jax.tree_util.tree_leaves_with_path(abstract):
    name = _name(path)
    there = found.pop(name, None)
    want = f'{leaf.dtype}{list(leaf.shape)}'
    has = f'{there.dtype}{list(there.shape)}' if there is not None else 'nothing'
    if has != want:
      raise CheckpointError(f'{folder}: {name} holds {has}, but this model needs {want}')
  if found:
    raise CheckpointError(f'{folder}: {next(iter(found))} has no place in this model')
  return _load(manager, step, item, abstract)


def _read(manager: ocp.CheckpointManager, step: int, item: str) -> Any:
  """Returns an item as it is on disk, as NumPy arrays."""
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  abstract = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
    _metadata(manager, step, item),
  )
  return jax.tree.map(np.asarray, _load(manager, step, item, abstract))


def _load(manager: ocp.CheckpointManager, step: int, item: str, abstract: Any) -> Any:
  arguments = {item: ocp.args.StandardRestore(abstract)}
  with _naming_damage(f'{manager.directory}/{step}'):
    return manager.restore(step, args=ocp.args.Composite(**arguments))[item]


def _metadata(manager: ocp.CheckpointManager, step: int, item: str) -> Any:
  """Returns the tree of shapes and types on disk."""
  folder = f'{manager.directory}/{step}'
  if step not in manager.all_steps():
    steps = ', '.join(map(str, sorted(manager.all_steps()))) or 'none'
    raise CheckpointError(f'{folder} does not exist: the steps there are {steps}')
  with _naming_damage(folder), ocp.StandardCheckpointer() as reader:
    return reader.metadata(f'{folder}/{item}').item_metadata.tree


@contextlib.contextmanager
def _naming_damage(folder: str) -> Iterator[None]:
  """Names the folder where files are missing or cut: Orbax then fails in all kinds of ways."""
  try:
    yield
  except Exception as error:
    first = next(iter(str(error).splitlines()), '')[:200]
    raise CheckpointError(
      f'{folder} is damaged: delete it to continue from what is left '
      f'({type(error).__name__}: {first})'
    ) from None


def _name(path: tuple[Any, ...]) -> str:
  """Returns a/b/c for a tree path of any kind of entries."""
  return '/'.join(str(getattr(p, 'key', getattr(p, 'name', getattr(p, 'idx', p)))) for p in path)
