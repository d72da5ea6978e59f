# SPDX-License-Identifier: Apache-2.0
"""Videos from a user's own source, which decodes them: `config.data.source = 'module:name'`.

The source is constructed in each process that reads, so it does not need to be picklable. It is
never called by two threads at the same time.
"""

import dataclasses
import functools
import hashlib
import operator
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vivit_jax.config.importable import describe, import_named
from vivit_jax.config.schema import Config, Task
from vivit_jax.data.manifest import Manifest, Video
from vivit_jax.data.video.array import FPS, FrameArray, wrong_frames
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import ConfigError, DataError, nearest

SETTING = 'config.data.source'
CONTRACT = 'return (frames, labels), with frames uint8 [N, H, W, 3] and N >= 1'
_making = threading.Lock()


@dataclasses.dataclass(frozen=True)
class OwnVideos:
  """The items of one split; picklable.

  Attributes:
    name: name of the source, `module:name`.
    split: name of the split.
    root: `config.data.root`.
    length: number of items in the process that opened the split.
    class_names: class names per head.
    multi_label: whether items have any number of labels instead of one per head.
  """

  name: str
  split: str
  root: str | None
  length: int
  class_names: dict[str, tuple[str, ...]]
  multi_label: bool

  def title(self, index: int) -> str:
    """Returns the name of an item in messages and lists."""
    return f'{self.name}({self.split!r})[{index}]'

  def __getitem__(self, index: int) -> FrameArray:
    """Returns the frames and labels of an item.

    Raises:
      DecodeError: the source raised an error; the item counts as an unreadable video.
      DataError: the source returned an invalid value, which ends the run.
    """
    source, lock = make(self.name, self.split, self.root)
    where = self.title(index)
    if (length := _length(source, self.name, self.split)) != self.length:
      raise DataError(
        f'{where}: the source has {length} items in this process, but {self.length} where the '
        'split was opened: its length must depend only on its arguments'
      )
    try:
      with lock:
        found = source[index]
    except Exception as error:
      raise DecodeError(where, describe(error)) from error
    if not isinstance(found, tuple) or len(found) != 2:
      what = f'a tuple of {len(found)}' if isinstance(found, tuple) else type(found).__name__
      raise DataError(f'{where} is {what}: {CONTRACT}')
    frames, labels = found
    if problem := wrong_frames(frames):
      raise DataError(f'{where}: its frames are {problem}: {CONTRACT}')
    ids = _label_ids(where, labels, self.class_names, self.multi_label)
    return FrameArray(frames, _fps(source, self.name), ids)


def open_own(config: Config, split: str) -> Manifest:
  """Returns the items of a split as a manifest; labels are known once an item is read.

  Raises:
    ConfigError: the source cannot be imported or constructed.
    DataError: the source has no such split or violates its contract.
  """
  name, root, task = config.data.source, config.data.root, config.task
  source, _ = make(name, split, root)
  length = _length(source, name, split)
  if not length:
    raise DataError(f'{name}({split!r}) has no items: the source has no such split')
  names = _class_names(source, name, task)
  multi_label = task.kind == 'multi_label'
  items = OwnVideos(name, split, root, length, names, multi_label)
  known = _all_labels(source, items)
  labels = ((),) * length if known is None else known
  videos = tuple(Video(items.title(i), None, None, own) for i, own in enumerate(labels))
  parts = [name, split, repr(names), repr(length), repr(labels)]
  digest = hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]
  return Manifest(
    split, videos, names, digest, multi_label, items=items, labels_known=known is not None
  )


def has_split(config: Config, split: str) -> bool:
  """Returns whether a source has items for a split; raises like `open_own`."""
  name = config.data.source
  return _length(make(name, split, config.data.root)[0], name, split) > 0


def class_counts(config: Config) -> tuple[int, ...]:
  """Returns the number of classes of each head; raises like `open_own`."""
  name, task = config.data.source, dataclasses.replace(config.task, classes=())
  source, _ = make(name, 'train', config.data.root)
  return tuple(map(len, _class_names(source, name, task).values()))


def make(name: str, split: str, root: str | None) -> tuple[Any, threading.Lock]:
  """Returns the source for a split, constructed once per process, and the lock for its items.

  Raises:
    ConfigError: the source cannot be imported or constructed.
  """
  with _making:
    return _make(import_named(name, SETTING), name, split, root)


@functools.lru_cache(maxsize=8)
def _make(factory: Any, name: str, split: str, root: str | None) -> tuple[Any, threading.Lock]:
  try:
    source = factory(split) if root is None else factory(split, root)
  except Exception as error:
    arguments = repr(split) if root is None else f'{split!r}, {root!r}'
    raise ConfigError(
      f'{SETTING}={name!r} cannot be constructed: {name}({arguments}) raised {describe(error)}'
    ) from error
  for method in ('__len__', '__getitem__'):
    if not hasattr(source, method):
      raise ConfigError(f'{SETTING}={name!r} returned {type(source).__name__} without {method}')
  return source, threading.Lock()


def _length(source: Any, name: str, split: str) -> int:
  try:
    return len(source)
  except Exception as error:
    raise DataError(f'len({name}({split!r})) raised {describe(error)}') from error


def _fps(source: Any, name: str) -> float:
  """Returns the source's optional frames per second."""
  fps = getattr(source, 'fps', FPS)
  if isinstance(fps, int | float) and 0 < fps < float('inf'):
    return float(fps)
  raise DataError(f'{name}.fps={fps!r} is not a number of frames per second')


def _class_names(source: Any, name: str, task: Task) -> dict[str, tuple[str, ...]]:
  classes = getattr(source, 'classes', None)
  if classes is None:
    raise DataError(f"{name} has no attribute 'classes' with the class names by class id")
  if isinstance(classes, Mapping):
    if absent := [head for head in task.heads if head not in classes]:
      raise DataError(f'{name}.classes has no head {absent[0]!r}{nearest(absent[0], classes)}')
    tables = {head: tuple(classes[head]) for head in task.heads}
  elif len(task.heads) == 1:
    tables = {task.heads[0]: tuple(classes)}
  else:
    raise DataError(f'{name}.classes must map each of {task.heads} to its class names')
  for head, names in tables.items():
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
      raise DataError(f'{name}.classes of {head!r} must be a non-empty list of unique names')
  counts = tuple(map(len, tables.values()))
  if task.classes not in ((), counts):
    raise DataError(
      f'{name}.classes has {counts} classes but config.task.classes expects {task.classes}: use '
      f'--config.task.classes="{counts}"'
    )
  return tables


def _all_labels(source: Any, items: OwnVideos) -> Sequence[tuple[int, ...]] | None:
  """Returns the class ids of all items if the source has the attribute `labels`."""
  labels = getattr(source, 'labels', None)
  if labels is None:
    return None
  if len(labels) != items.length:
    raise DataError(f'{items.name}.labels has {len(labels)} entries for {items.length} items')
  return [
    _label_ids(items.title(i), own, items.class_names, items.multi_label)
    for i, own in enumerate(labels)
  ]


def _label_ids(
  where: str, labels: Any, names: dict[str, tuple[str, ...]], multi_label: bool
) -> tuple[int, ...]:
  """Returns class ids for labels given as ids or class names; raises DataError.

  Args:
    where: location for messages.
    labels: one label if there is one head; for several heads a sequence in their order, or a
      mapping; for multi_label the present labels in any order.
    names: class names per head.
    multi_label: see `OwnVideos`.
  """
  if multi_label:
    ((head, known),) = names.items()
    if isinstance(labels, str) or not isinstance(labels, Iterable):
      raise DataError(f'{where}: its labels are {labels!r}, not a list of the present labels')
    return tuple(sorted({_class_id(where, head, label, known) for label in labels}))
  if isinstance(labels, Mapping):
    labels = [labels.get(head) for head in names]
  elif len(names) == 1 and (isinstance(labels, str) or not isinstance(labels, Sequence)):
    labels = [labels]
  if isinstance(labels, str) or not isinstance(labels, Sequence) or len(labels) != len(names):
    raise DataError(f'{where}: its labels are {labels!r}, not one per head of {tuple(names)}')
  return tuple(
    _class_id(where, head, label, known)
    for (head, known), label in zip(names.items(), labels, strict=True)
  )


def _class_id(where: str, head: str, label: Any, names: tuple[str, ...]) -> int:
  if isinstance(label, str):
    if label not in names:
      raise DataError(f'{where}: {head}={label!r} is not in its classes{nearest(label, names)}')
    return names.index(label)
  try:
    index = operator.index(label)
  except TypeError:
    kind = type(label).__name__
    raise DataError(f'{where}: {head} is {kind}, not a class id or name') from None
  if not 0 <= index < len(names):
    raise DataError(f'{where}: {head}={index} is not from 0 to {len(names) - 1}')
  return index
