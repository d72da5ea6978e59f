# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the newest states and the best, saved asynchronously and atomically."""

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal

import jax

from vivit_jax.checkpoint.store import DAMAGED, Store, all_hosts
from vivit_jax.errors import CheckpointError, DamagedError, SaveError

CHECKPOINTS = 'checkpoints'
BEST = 'best'


class Checkpoints:
  """The checkpoints of one workdir; save only within `with`, which waits for pending saves on exit.

  `checkpoints/STEP` holds the newest `keep` states, and `best/STEP` the parameters with the highest
  score so far. They are separate because Orbax's `best_fn` may delete the newest state, and
  replaces the best parameters by ones with a NaN score.
  """

  def __init__(
    self,
    workdir: Path,
    keep: int = 1,
    *,
    read_only: bool = False,
    on_disk_full: Literal['stop', 'continue'] = 'stop',
  ):
    """Opens the checkpoints.

    Args:
      workdir: workdir of the run.
      keep: number of states to keep.
      read_only: only read; another process may be writing.
      on_disk_full: whether a full disk is an error (`stop`) or a warning (`continue`).
    """
    self._workdir = workdir
    self._states = Store(workdir / CHECKPOINTS, 'state', keep, read_only)
    self._best = Store(workdir / BEST, 'params', 1, read_only)
    self._on_disk_full = on_disk_full
    self._entered = False

  def __enter__(self) -> 'Checkpoints':
    self._entered = True
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    try:
      self._close()
    except KeyboardInterrupt:
      _say('writing the checkpoint before leaving; interrupt once more to lose it')
      self._close()
      raise
    except SaveError as failure:
      if error is None:
        raise
      _say(f'error: {failure}')  # do not hide the error that ended the run

  def _close(self) -> None:
    with contextlib.closing(self._best), contextlib.closing(self._states):
      pass

  @property
  def steps(self) -> list[int]:
    """Steps with a saved state, ascending."""
    return self._states.steps

  @property
  def best_step(self) -> int | None:
    """Step of the best parameters, or None."""
    return self._best.steps[-1] if self._best.steps else None

  def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
    """Starts writing a state.

    Args:
      step: step number; an existing step is not saved again.
      state: tree of arrays.
      about: JSON values to store with it: the config and the fingerprint of the data.

    Raises:
      SaveError: the disk is full, unless `on_disk_full` is continue.
    """
    assert self._entered, 'a save outside of `with` would be lost on leaving'
    if step not in self.steps:
      with self._warning_of_full_disk():
        self._best.wait()  # a run resumed from this state needs the best so far
        self._states.save(step, state, about)

  def about(self, step: int) -> dict[str, Any]:
    """Returns the JSON values stored with a state; raises CheckpointError."""
    return self._states.about(step)

  def abouts(self) -> list[dict[str, Any]]:
    """Returns the JSON values stored with each undamaged step, including the step number."""
    found = []
    for store in (self._states, self._best):
      for step in store.steps:
        with contextlib.suppress(DamagedError):
          found.append(store.about(step))
    return found

  def save_best(
    self,
    step: int,
    params: Any,
    score: float,
    loss: float = math.nan,
    about: Mapping[str, Any] = MappingProxyType({}),
  ) -> bool:
    """Starts writing the parameters if they are better than the saved ones.

    Ties are broken by the lower loss, then by the later step. NaN ranks lowest.

    Args:
      step: step number.
      params: tree of arrays.
      score: validation score; higher is better.
      loss: validation loss.
      about: JSON values stored with them, as for `save`.

    Returns:
      Whether the parameters are better.

    Raises:
      SaveError: as for `save`.
    """
    assert self._entered, 'a save outside of `with` would be lost on leaving'
    score = -math.inf if math.isnan(score) else score
    loss = math.inf if math.isnan(loss) else loss
    with self._warning_of_full_disk():
      if self.best_step is not None and not self._beats_best(step, score, loss):
        return False
      self._best.save(step, params, {**about, 'score': str(score), 'loss': str(loss)})
      return True
    return False

  def _beats_best(self, step: int, score: float, loss: float) -> bool:
    try:
      best, its_loss = self.best_score()
      return step != self.best_step and (score, -loss) >= (best, -its_loss)
    except DamagedError as error:  # it was damaged during this run
      assert self.best_step is not None
      _set_aside(self._best, [(self.best_step, str(error))], f'step {step} is the best now')
      return True

  def best_score(self) -> tuple[float, float]:
    """Returns score and loss of the best parameters; loss is inf if saved by earlier versions."""
    self._best.wait()
    assert self.best_step is not None
    about = self._best.about(self.best_step)
    return float(about['score']), float(about.get('loss', math.inf))

  def check(self) -> None:
    """Raises SaveError or warns, by `on_disk_full`, if a save has failed; does not block."""
    for store in (self._states, self._best):
      with self._warning_of_full_disk():
        store.check()

  def wait_for(self, step: int) -> None:
    """Returns once this state is on disk.

    Raises:
      SaveError: it could not be written, independent of `on_disk_full`.
    """
    self._states.wait()
    if step not in self.steps:
      raise SaveError(f'{self._states.folder}/{step} was not saved: see above', disk_full=True)

  @contextlib.contextmanager
  def _warning_of_full_disk(self) -> Iterator[None]:
    try:
      yield
    except SaveError as error:
      if self._on_disk_full == 'stop' or not error.disk_full:
        raise
      _say(f'warning: {error}; training continues without it')

  def restore(self, step: int, abstract: Any) -> Any:
    """Returns the state of a step with the shardings of the abstract tree.

    Raises:
      CheckpointError: the step is missing, or its arrays differ from `abstract`.
      DamagedError: the arrays differ from what was written.
    """
    return self._states.restore(step, abstract)

  def restore_newest(self, abstract: Any) -> Any | None:
    """Returns the newest undamaged state, or None if there are no states.

    Later, damaged states are reported and renamed, so that the run can save those steps again.

    Raises:
      CheckpointError: the state does not match the model, or all states are damaged.
    """
    step, state, damaged = _newest_undamaged(self._states, abstract)
    folder = self._states.folder
    if state is None and (damaged or any(folder.glob(f'{DAMAGED}*'))):
      problem = damaged[0][1] if damaged else f'{folder} has only damaged steps'
      raise CheckpointError(
        f'{problem}, and no earlier step is undamaged: delete {folder} to train from step 0 again, '
        f'or, if {self._best.folder} is undamaged, start a new --workdir from its parameters with '
        f'--config.init.checkpoint={self._workdir}'
      )
    _set_aside(self._states, damaged, f'step {step} is used instead')
    return state

  def check_best(self, abstract: Any) -> None:
    """If the best parameters are damaged, reports and renames them, so new ones can be chosen.

    Raises:
      CheckpointError: they do not match the model.
    """
    damaged = _newest_undamaged(self._best, abstract)[2]
    _set_aside(self._best, damaged, 'the next evaluation chooses new best parameters')

  def read_params(self, wanted: int | Literal['best', 'last']) -> tuple[Any, int, dict[str, Any]]:
    """Returns the parameters as a nested dict of NumPy arrays, their step and the stored values.

    If a running trainer replaces `best` or `last` while it is read, the new one is read.

    Args:
      wanted: `best` (or the newest state if none has a score yet), `last`, or a step.

    Raises:
      CheckpointError: there is no such step.
      DamagedError: its files differ from what was written.
    """
    states = self._states
    if wanted == 'best' and self.best_step is not None:
      try:
        return _read(self._best)
      except DamagedError as error:
        if not self.steps:
          raise
        newest = f'{states.folder}/{self.steps[-1]}'
        raise DamagedError(f'{error}: use --step=last, the newest state, {newest}') from None
    if not isinstance(wanted, int) and not self.steps:
      raise CheckpointError(f'{self._workdir} has no checkpoint: run `vivit train` first')
    try:
      state, step, about = _read(states, wanted if isinstance(wanted, int) else None)
    except DamagedError as error:
      damaged = wanted if isinstance(wanted, int) else self.steps[-1]
      others = ', '.join(str(step) for step in self.steps if step != damaged) or 'none'
      if damaged not in self.steps:
        raise CheckpointError(
          f'{states.folder}/{damaged} was removed while it was read: the steps there are {others}'
        ) from None
      raise DamagedError(f'{error}: give another --step, one of {others}') from None
    return state.get('ema_params') or state['params'], step, about


def _read(store: Store, wanted: int | None = None) -> tuple[Any, int, dict[str, Any]]:
  """Returns the arrays of a step (default: the newest), its number and the stored JSON values."""
  while True:
    step = store.steps[-1] if wanted is None else wanted
    try:
      return store.read(step), step, store.about(step)
    except CheckpointError:
      store.look_again()
      # A trainer removes a step after writing the next one; then read that one.
      if wanted is not None or store.steps[-1:] in ([], [step]):
        raise


def _newest_undamaged(
  store: Store, abstract: Any
) -> tuple[int | None, Any | None, list[tuple[int, str]]]:
  """Returns the newest undamaged step, its arrays, and the damaged steps after it with reasons."""
  damaged: list[tuple[int, str]] = []
  for step in reversed(store.steps):
    tree, problem = None, f'{store.folder}/{step} is damaged: reported by another host'
    try:
      tree = store.restore(step, abstract)
    except DamagedError as error:
      problem = str(error)
    if all_hosts(tree is not None):
      return step, tree, damaged
    damaged.append((step, problem))
  return None, None, damaged


def _set_aside(store: Store, damaged: list[tuple[int, str]], instead: str) -> None:
  for step, problem in damaged:
    _say(f'warning: {problem}: {instead}; the damaged step was moved to {store.set_aside(step)}')


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(f'vivit: {line}', file=sys.stderr, flush=True)
