# SPDX-License-Identifier: Apache-2.0
"""A folder of numbered steps, each a tree of arrays that is verified when read."""

import contextlib
import dataclasses
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vivit_jax.checkpoint.fingerprint import describe, kinds
from vivit_jax.checkpoint.step_files import (
  check_regular,
  check_regular_files,
  delete_incomplete,
  literal_path,
  seal,
  unseal,
)
from vivit_jax.errors import CheckpointError, DamagedError, SaveError

DAMAGED = 'damaged-'
# Renamed fields of saved training states, old to new; both are accepted when reading.
RENAMED = {'average': 'ema_params'}
LEFTOVERS = '*.orbax-checkpoint-tmp*'
METADATA = 4096  # measured overhead on disk per array, in bytes
FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))


class Store:
  """Steps `folder/STEP`, saved in the background: the arrays `item` and the JSON values `about`."""

  def __init__(self, folder: Path, item: str, keep: int, read_only: bool):
    self.folder = folder.absolute()
    self._item, self._keep, self._read_only = item, keep, read_only
    self._writing: tuple[int, int] | None = None  # step and size in bytes
    self._place, self._release = literal_path(self.folder, make=not read_only)
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    if self._read_only:  # a reader's cleanup would delete the writer's unfinished saves
      options = ocp.CheckpointManagerOptions(
        read_only=True, create=False, max_to_keep=None, save_interval_steps=0
      )
    else:
      self._remove_leftovers()
      options = ocp.CheckpointManagerOptions(
        max_to_keep=self._keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
      )
    try:
      for file in self.folder.glob('*/_CHECKPOINT_METADATA'):  # Orbax opens all of them
        with contextlib.suppress(FileNotFoundError):  # removed by a trainer meanwhile
          check_regular(file)
      return ocp.CheckpointManager(self._place, options=options)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
      raise DamagedError(
        f'{self.folder}/*/_CHECKPOINT_METADATA cannot be read ({_first_line(error)}): delete the '
        'damaged file, which is not needed'
      ) from None

  def _remove_leftovers(self) -> None:
    """Removes files of killed and failed saves, and empty folders, which Orbax leaves."""
    if jax.process_index() == 0:
      for _ in range(50):  # running writer threads may still add files
        leftovers = list(self.folder.glob(LEFTOVERS))
        for leftover in leftovers:
          shutil.rmtree(leftover, ignore_errors=True)
        if not leftovers:
          return
        time.sleep(0.02)

  @property
  def steps(self) -> list[int]:
    """Steps, ascending, including a step that is being written."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, tree: Any, about: dict[str, Any]) -> None:
    """Starts writing a step.

    Raises:
      SaveError: the disk is full, or the previous save failed.
    """
    self.wait()
    size = sum(leaf.nbytes + METADATA for leaf in jax.tree.leaves(tree))
    if not all_hosts(shutil.disk_usage(self.folder).free > size):
      raise self._not_saved(step, size, FULL[0])
    self._writing = step, size
    arguments = {
      self._item: ocp.args.StandardSave(tree),
      'about': ocp.args.JsonSave(seal({**about, 'step': step, 'arrays': describe(tree)})),
    }
    try:
      with self._noticing_failure():
        self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)
    except KeyboardInterrupt:  # then no save is pending
      self._writing = None
      raise

  def check(self) -> None:
    """Raises SaveError if a save has failed; does not block."""
    if self._writing is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Returns once the last save is on disk.

    Raises:
      SaveError: it failed; its temporary files are removed.
    """
    if self._writing is not None:
      with self._noticing_failure():
        self._manager.wait_until_finished()
        # After an interrupt, Orbax's join returns before the thread has ended (Python 3.11).
        while not self._is_written() and self._manager.is_saving_in_progress():
          time.sleep(0.005)
        self._manager.wait_until_finished()
        if not self._is_written():  # Orbax does not report a cancelled save
          raise RuntimeError('it was cancelled')
        if jax.process_index() == 0:
          delete_incomplete(self.folder / str(self._writing[0]), self._item)
      self._writing = None

  def _is_written(self) -> bool:
    """Returns whether the last step has its final name; process 0 checks for all processes."""
    assert self._writing is not None
    return jax.process_index() > 0 or (self.folder / str(self._writing[0])).is_dir()

  def close(self) -> None:
    """Waits like `wait`, then ends the writer threads."""
    failure = None
    try:
      self.wait()
    except SaveError as error:
      failure = error
    self._manager.close()
    self._release()
    if failure is not None:
      raise failure

  @contextlib.contextmanager
  def _noticing_failure(self) -> Iterator[None]:
    try:
      yield
    except Exception as error:
      assert self._writing is not None
      failed, self._writing = self._writing, None
      with contextlib.suppress(Exception):  # it raises the same error again
        self._manager.close()
      self._manager = self._open()  # a new manager does not list the failed step
      reason = ' '.join(str(error).replace(str(self._place), str(self.folder)).split())
      raise self._not_saved(*failed, reason) from None

  def _not_saved(self, step: int, size: int, reason: str) -> SaveError:
    full = next((text for text in FULL if text in reason), None)
    before = f'step {self.steps[-1]}' if self.steps else 'the beginning'
    space = ''
    if full is not None:
      space = f': it needs {size:,} bytes and {shutil.disk_usage(self.folder).free:,} are free'
    return SaveError(
      f'{self.folder}/{step} was not saved ({full or reason[:300]}){space}; the same command '
      f'continues from {before}',
      disk_full=full is not None,
    )

  def about(self, step: int) -> dict[str, Any]:
    """Returns the JSON values stored with a step.

    Raises:
      CheckpointError: the step does not exist.
      DamagedError: the values differ from what was written.
    """
    if step not in self.steps:
      steps = ', '.join(map(str, self.steps)) or 'none'
      raise CheckpointError(f'{self.folder}/{step} does not exist: the steps there are {steps}')
    with self._naming_damage(step):
      check_regular_files(self.folder / str(step))
      arguments = ocp.args.Composite(about=ocp.args.JsonRestore())
      about = unseal(self._manager.restore(step, args=arguments)['about'])
      if about.setdefault('step', step) != step:  # earlier versions did not store it
        raise ValueError(f'it was saved as step {about["step"]}')
      return about

  def restore(self, step: int, abstract: Any) -> Any:
    """Returns the arrays of a step with the shardings of the abstract tree.

    Raises:
      CheckpointError: the step is missing, or its arrays differ from `abstract`.
      DamagedError: the arrays differ from what was written.
    """
    written = self.about(step)['arrays']
    target = self._with_stored_names(step, abstract)
    found = {name: has for name, (has, _) in written.items()}
    for name, want in kinds(target).items():
      has = found.pop(name, 'nothing')
      if has != want:
        raise CheckpointError(
          f'{self.folder}/{step}: {name} holds {has}, but this model needs {want}'
        )
    if found:
      raise CheckpointError(f'{self.folder}/{step}: {next(iter(found))} is not in this model')
    tree = self._load(step, target, written)
    return tree if target is abstract else dataclasses.replace(abstract, **_with_new_names(tree))

  def _with_stored_names(self, step: int, abstract: Any) -> Any:
    """Returns a training state as a dict with the field names under which the step was saved."""
    with self._naming_damage(step):
      stored = self._metadata(step)
    old = {new: old for old, new in RENAMED.items() if old in stored and hasattr(abstract, new)}
    if not old:
      return abstract
    fields = [field.name for field in dataclasses.fields(abstract)]
    return {old.get(name, name): getattr(abstract, name) for name in fields}

  def _metadata(self, step: int) -> Any:
    """Returns the stored tree of shapes and types."""
    with ocp.StandardCheckpointer() as reader:
      metadata = reader.metadata(f'{self._place}/{step}/{self._item}').item_metadata
    if metadata is None:
      raise FileNotFoundError(f'{self._item} has no metadata')
    return metadata.tree

  def read(self, step: int) -> Any:
    """Returns the arrays of a step as nested dicts and lists of NumPy arrays; see `restore`."""
    written = self.about(step)['arrays']
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    with self._naming_damage(step):
      abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        self._metadata(step),
      )
    return _with_new_names(jax.tree.map(np.asarray, self._load(step, abstract, written)))

  def _load(self, step: int, abstract: Any, written: dict[str, Any]) -> Any:
    with self._naming_damage(step):
      arguments = ocp.args.Composite(**{self._item: ocp.args.StandardRestore(abstract)})
      tree = self._manager.restore(step, args=arguments)[self._item]
      now = {name: list(array) for name, array in describe(tree).items()}
      for name in {**written, **now}:
        if written.get(name) != now.get(name):
          raise ValueError(f'{name} differs from what was written')
    return tree

  @contextlib.contextmanager
  def _naming_damage(self, step: int) -> Iterator[None]:
    """Converts Orbax's errors about missing or changed files to a DamagedError with the step."""
    try:
      yield
    except Exception as error:
      first = _first_line(error).replace(str(self._place), str(self.folder))
      raise DamagedError(
        f'{self.folder}/{step} is damaged ({type(error).__name__}: {first})'
      ) from None

  def look_again(self) -> None:
    """Rereads the list of steps, which another process may have changed."""
    self._manager.reload()

  def set_aside(self, step: int) -> str:
    """Renames a damaged step, so that it can be saved again, and returns the new name."""
    number = 1
    while (aside := self.folder / f'{DAMAGED}{step}{f"-{number}" * (number > 1)}').exists():
      number += 1
    all_hosts(True)  # barrier: all have chosen the name
    if jax.process_index() == 0:
      (self.folder / str(step)).rename(aside)
    all_hosts(True)  # barrier: it is renamed
    self._manager.reload()
    return aside.name


def all_hosts(here: bool) -> bool:
  """Returns whether the value is True on all hosts; a barrier that all hosts must call."""
  return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def _with_new_names(state: dict[str, Any]) -> dict[str, Any]:
  """Returns a training state with the current field names."""
  return {RENAMED.get(name, name): value for name, value in state.items()}


def _first_line(error: Exception) -> str:
  return next(iter(str(error).splitlines()), '')[:200]
