# SPDX-License-Identifier: Apache-2.0
"""Training states on disk: asynchronous, atomic, the newest always kept, the best beside them."""

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
  """The checkpoints of one workdir; saves only as a context manager, since leaving must wait.

  `checkpoints/STEP` holds whole states, the newest `keep` of them. `best/STEP` holds the parameters
  that scored highest so far. They are separate, because Orbax's `best_fn` would delete the newest
  state, and let a NaN push out the true best.
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
      workdir: of the run.
      keep: how many whole states.
      read_only: where another process may be writing them.
      on_disk_full: whether a save that finds no space is an error, or a warning.
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
      _say(f'error: {failure}')  # and not instead of what ended the run

  def _close(self) -> None:
    with contextlib.closing(self._best), contextlib.closing(self._states):
      pass

  @property
  def steps(self) -> list[int]:
    """Steps with a whole state, ascending."""
    return self._states.steps

  @property
  def best_step(self) -> int | None:
    """Step of the best parameters, if any."""
    return self._best.steps[-1] if self._best.steps else None

  def save(self, step: int, state: Any, about: dict[str, Any]) -> None:
    """Starts writing a state.

    Args:
      step: its name; a step that exists already is left as it is.
      state: tree of arrays.
      about: what the state needs to be understood: configuration and what identifies the data.

    Raises:
      SaveError: where the state does not fit on the disk (unless `on_disk_full` is continue).
    """
    assert self._entered, 'a save outside of `with` would be lost on leaving'
    if step not in self.steps:
      with self._warning_of_full_disk():
        self._best.wait()  # a run that goes on from this state must find the best until then
        self._states.save(step, state, about)

  def about(self, step: int) -> dict[str, Any]:
    """Returns what was said about a state as it was saved; raises CheckpointError."""
    return self._states.about(step)

  def abouts(self) -> list[dict[str, Any]]:
    """Returns what was said about each step, its number among it, but for those damaged."""
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
    """Starts writing the parameters if they are better than what is there.

    Of equal scores the lower loss is better, of equal losses the later step. NaN ranks worst.

    Args:
      step: its name.
      params: tree of arrays.
      score: of a validation; higher is better.
      loss: of the same.
      about: what the parameters need to be understood, as for `save`.

    Returns:
      Whether they are.

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
    except DamagedError as error:  # while the run goes on
      assert self.best_step is not None
      _set_aside(self._best, [(self.best_step, str(error))], f'step {step} is the best now')
      return True

  def best_score(self) -> tuple[float, float]:
    """Returns score and loss of the best parameters; earlier versions kept no loss: infinity."""
    self._best.wait()
    assert self.best_step is not None
    about = self._best.about(self.best_step)
    return float(about['score']), float(about.get('loss', math.inf))

  def check(self) -> None:
    """Raises SaveError, or warns, where a save has failed by now; costs no time."""
    for store in (self._states, self._best):
      with self._warning_of_full_disk():
        store.check()

  def wait_for(self, step: int) -> None:
    """Returns once this state is on disk.

    Raises:
      SaveError: where it could not be written, whatever `on_disk_full` says.
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
      _say(f'warning: {error}; training goes on without it')

  def restore(self, step: int, abstract: Any) -> Any:
    """Returns the state of a step, placed as the abstract tree's shardings say.

    Raises:
      CheckpointError: where the step is missing or its arrays are not those of `abstract`.
      DamagedError: where they are not what was written.
    """
    return self._states.restore(step, abstract)

  def restore_newest(self, abstract: Any) -> Any | None:
    """Returns the newest whole state, or None where none was ever saved.

    What is damaged after it is named and renamed, so that the run can write those steps again.

    Raises:
      CheckpointError: where the state is of another model, or none is whole any more.
    """
    step, state, damaged = _newest_whole(self._states, abstract)
    folder = self._states.folder
    if state is None and (damaged or any(folder.glob(f'{DAMAGED}*'))):
      problem = damaged[0][1] if damaged else f'{folder} holds only damaged steps'
      raise CheckpointError(
        f'{problem}, and no step before it is whole: delete {folder} to train from step 0 again, '
        f'or start another --workdir, if {self._best.folder} is whole from its parameters by '
        f'--config.init.checkpoint={self._workdir}'
      )
    _set_aside(self._states, damaged, f'step {step} is used instead')
    return state

  def check_best(self, abstract: Any) -> None:
    """Names and renames the best parameters if they are damaged: others will then be the best.

    Raises:
      CheckpointError: where they are of another model.
    """
    damaged = _newest_whole(self._best, abstract)[2]
    _set_aside(self._best, damaged, 'the next evaluation chooses the best anew')

  def read_params(self, wanted: int | Literal['best', 'last']) -> tuple[Any, int, dict[str, Any]]:
    """Returns parameters as a nested dict of NumPy arrays, their step and what was said about them.

    Of `best` and `last`, while a trainer replaces them, the ones that are there in the end.

    Args:
      wanted: `best` (the newest state where none was scored yet), `last`, or a step.

    Raises:
      CheckpointError: where there is no such step.
      DamagedError: where it is not what was written.
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
      raise CheckpointError(f'{self._workdir} holds no checkpoint: train it first')
    try:
      state, step, about = _read(states, wanted if isinstance(wanted, int) else None)
    except DamagedError as error:
      damaged = wanted if isinstance(wanted, int) else self.steps[-1]
      others = ', '.join(str(step) for step in self.steps if step != damaged) or 'none'
      if damaged not in self.steps:
        raise CheckpointError(
          f'{states.folder}/{damaged} was removed while it was read: the steps there are {others}'
        ) from None
      raise DamagedError(f'{error}: use another step, by --step: {others}') from None
    return state.get('ema_params') or state['params'], step, about


def _read(store: Store, wanted: int | None = None) -> tuple[Any, int, dict[str, Any]]:
  """Returns the arrays of a step, by default the newest, its number and what was said about it."""
  while True:
    step = store.steps[-1] if wanted is None else wanted
    try:
      return store.read(step), step, store.about(step)
    except CheckpointError:
      store.look_again()
      # A trainer removes a step once it has written the next one, which is then the one to read.
      if wanted is not None or store.steps[-1:] in ([], [step]):
        raise


def _newest_whole(
  store: Store, abstract: Any
) -> tuple[int | None, Any | None, list[tuple[int, str]]]:
  """Returns the newest step that is whole and its arrays, and what is wrong with those after it."""
  damaged: list[tuple[int, str]] = []
  for step in reversed(store.steps):
    tree, problem = None, f'{store.folder}/{step} is damaged, as another host found'
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
    _say(f'warning: {problem}: {instead}, and the damaged one kept as {store.set_aside(step)}')


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(f'vivit: {line}', file=sys.stderr, flush=True)
