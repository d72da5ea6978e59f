# SPDX-License-Identifier: Apache-2.0
"""Sources and augmentations as users write them, good and bad; named 'support.own:NAME'."""

import os
from pathlib import Path

import numpy as np

from support.streams import WORKER

ITEMS = 7
BROKEN = 2  # item that cannot be read


def in_worker():
  return WORKER in Path(f'/proc/{os.getpid()}/cmdline').read_bytes()


class Gray:
  """Clips of one gray level, by item; odd ones are 'b'."""

  classes = ('a', 'b')
  shape = (12, 40, 48, 3)

  def __init__(self, split, root=None):
    self.split, self.root = split, root

  def __len__(self):
    return 0 if self.split == 'test' else ITEMS

  def frames(self, i):
    levels = 10 + 30 * i + np.arange(self.shape[0], dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], self.shape)

  def __getitem__(self, i):
    if i == BROKEN:
      raise KeyError(f'clip {i} is lost')
    return self.frames(i), i % 2


class Named(Gray):
  """Two heads by name, with all labels in advance."""

  classes = {'verb': ('left', 'right'), 'noun': ('one', 'two', 'three')}  # noqa: RUF012
  fps = 10.0

  @property
  def labels(self):
    return [self[i][1] for i in range(ITEMS)]

  def __getitem__(self, i):
    return self.frames(i), {'verb': ('left', 'right')[i % 2], 'noun': i % 3}


class Tags(Gray):
  """Any number of labels."""

  def __getitem__(self, i):
    return self.frames(i), [name for k, name in enumerate('ab') if i >> k & 1]


def shift(clip, rng):
  """Adds a random level."""
  return clip + np.uint8(rng.integers(1, 20))


class _Bad(Gray):
  item = 3

  def __getitem__(self, i):
    return self.wrong(i) if i == self.item else (self.frames(i), 0)


def _bad(wrong):
  return type('Bad', (_Bad,), {'wrong': lambda self, i: wrong(self, i)})


OnlyFrames = _bad(lambda self, i: self.frames(i))
Floats = _bad(lambda self, i: (self.frames(i) / 255, 0))
Lists = _bad(lambda self, i: (self.frames(i).tolist(), 0))
Gray3d = _bad(lambda self, i: (self.frames(i)[..., 0], 0))
NoFrames = _bad(lambda self, i: (self.frames(i)[:0], 0))
TooHigh = _bad(lambda self, i: (self.frames(i), 2))
Misspelt = _bad(lambda self, i: (self.frames(i), 'c'))
NoClass = _bad(lambda self, i: (self.frames(i), 0.5))
TwoLabels = _bad(lambda self, i: (self.frames(i), (0, 1)))


class Unlabelled(Gray):
  classes = None


class Twice(Gray):
  classes = ('a', 'a')


class WrongLabels(Gray):
  labels = (0, 1)


class Frozen(Gray):
  fps = 0


class Raises(Gray):
  def __init__(self, split):
    raise FileNotFoundError(2, 'No such file or directory', f'{split}.h5')


class Lost(Gray):
  def __getitem__(self, i):
    raise RuntimeError('the disk is gone')


class OnlyHere(Gray):
  """Cannot be made in a worker process."""

  def __init__(self, split):
    if in_worker():
      raise OSError('one process only')
    super().__init__(split)

  def __len__(self):
    return ITEMS


class Longer(Gray):
  """One item more in worker processes."""

  def __len__(self):
    return ITEMS + in_worker()


def raises(clip, rng):
  raise ValueError('not\ntoday')


def shorter(clip, rng):
  return clip[1:]


def floats(clip, rng):
  return clip / 2


def nothing(clip, rng):
  clip[:] = 0


NUMBER = 3
