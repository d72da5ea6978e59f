# SPDX-License-Identifier: Apache-2.0
"""Assembles examples, which are decoded in any order, into batches in a fixed order."""

import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vivit_jax.data.buffers import Buffers
from vivit_jax.data.examples import Examples, Failure
from vivit_jax.data.jobs import Decoders, Result, Task

Batch = dict[str, Any]
Place = Callable[[Batch], Batch]  # e.g. puts a batch on devices

PLACED = 2  # batches placed ahead of the consumer; more would fill device memory


@dataclasses.dataclass
class _Open:
  """A batch under construction."""

  buffer: int
  video: UInt8[np.ndarray, 'b f h w 3']
  missing: int  # number of rows still to be decoded
  rows: list[tuple[np.ndarray, bool, int]]  # label, mask, id
  failures: list[list[Failure]]  # per row


@dataclasses.dataclass
class _Example:
  number: int
  row: int  # row of its first view in the stream
  failures: list[Failure]


class BatchAssembler:
  """A stream of batches of `size` views, in the order of the examples.

  Rows after the last example are padding: zeros with the id -1. A background thread keeps the
  decoders busy and places the next batches while the consumer computes.
  """

  def __init__(
    self,
    examples: Examples,
    numbers: Iterator[int],
    padding: np.ndarray,
    *,
    batches: int,
    size: int,
    ahead: int,
    place: Place | None = None,
  ):
    """Sets up the stream; `stream` starts it.

    Args:
      examples: maps numbers to examples.
      numbers: numbers of the examples, in order.
      padding: label of padding rows.
      batches: total number of batches.
      size: rows per batch.
      ahead: minimum number of rows under construction or waiting for the consumer; rounded up to
        whole batches, and to enough batches for an example that spans several.
      place: applied to each batch in the background thread, PLACED batches ahead of the consumer.
    """
    self._examples, self._numbers, self._padding = examples, numbers, padding
    self._place = place
    self._batches, self._size = batches, size
    self._ahead = 1 + -(-max(ahead, examples.rows) // size)
    self._taken = 0
    self._closed = False
    self._ready: queue.SimpleQueue[Batch | BaseException] = queue.SimpleQueue()
    # Used only by the background thread:
    self._opened = self._done = self._given = 0  # batches
    self._open: deque[_Open] = deque()
    self._complete: deque[Batch] = deque()
    self._next: int | None = next(numbers, None)
    self._row = 0  # first row of the next example
    self._slots = 0
    self._begun: dict[int, _Example] = {}  # by slot

  def stream(self, decoders: Decoders, buffers: Buffers) -> Generator[Batch, None, None]:
    """Yields the batches; closing the generator stops the decoders.

    Returns:
      Batches as in `pipeline.train_batches`.

    Raises:
      DataError: see `Examples.request`.
    """
    thread = threading.Thread(target=self._run, args=(decoders, buffers), daemon=True)
    thread.start()
    try:
      for _ in range(self._batches):
        yield self._take(decoders)
    finally:
      self._closed = True
      decoders.wake()
      thread.join()
      decoders.close()
      buffers.close()

  def _take(self, decoders: Decoders) -> Batch:
    batch = self._ready.get()
    if isinstance(batch, BaseException):
      raise batch
    self._taken += 1
    decoders.wake()
    return batch

  def _run(self, decoders: Decoders, buffers: Buffers) -> None:
    try:
      decoders.start()
      while not self._closed and self._given < self._batches:
        while self._opened < min(self._batches, self._taken + self._ahead):
          self._open_batch(buffers)
        self._begin_examples(decoders)
        self._complete_batches()
        self._give_out()
        if self._given < self._batches:
          for result in decoders.decoded():
            self._settle(result, decoders)
    except BaseException as error:
      self._ready.put(error)

  def _open_batch(self, buffers: Buffers) -> None:
    size = self._size
    buffer, video = buffers.take()
    self._open.append(
      _Open(buffer, video, size, [(self._padding, False, -1)] * size, [[] for _ in range(size)])
    )
    self._opened += 1

  def _begin_examples(self, decoders: Decoders) -> None:
    """Submits examples whose rows are all in open batches; pads after the last example."""
    rows = self._examples.rows
    while self._next is not None and self._row + rows <= self._opened * self._size:
      self._begun[self._slots] = _Example(self._next, self._row, [])
      self._try(self._slots, decoders)
      self._slots += 1
      self._row += rows
      self._next = next(self._numbers, None)
    while self._next is None and self._row < self._opened * self._size:
      batch, row = self._at(self._row)
      batch.video[row] = 0
      batch.missing -= 1
      self._row += 1

  def _try(self, slot: int, decoders: Decoders) -> None:
    """Submits the next attempt for an example; without one, its rows are masked zeros."""
    example = self._begun[slot]
    request = self._examples.request(example.number, example.failures)
    if request is not None:
      places = tuple((batch.buffer, row) for batch, row in self._rows(example))
      decoders.decode(Task(slot, request, places))
      return
    for batch, row in self._rows(example):
      batch.video[row] = 0
    self._finish(slot, self._examples.label(example.number), False, example.number)

  def _settle(self, result: Result, decoders: Decoders) -> None:
    example = self._begun[result.slot]
    if result.failure is not None:
      example.failures.append(result.failure)
      self._try(result.slot, decoders)
    else:
      assert result.label is not None
      self._finish(result.slot, result.label, True, result.index)

  def _finish(self, slot: int, label: np.ndarray, mask: bool, index: int) -> None:
    example = self._begun.pop(slot)
    for k, (batch, row) in enumerate(self._rows(example)):
      batch.rows[row] = (label, mask, index)
      batch.missing -= 1
      if k == 0:
        batch.failures[row] = example.failures

  def _rows(self, example: _Example) -> Iterator[tuple[_Open, int]]:
    return map(self._at, range(example.row, example.row + self._examples.rows))

  def _at(self, row: int) -> tuple[_Open, int]:
    batch, row = divmod(row, self._size)
    return self._open[batch - self._done], row

  def _complete_batches(self) -> None:
    while self._open and not self._open[0].missing:
      batch = self._open.popleft()
      labels, masks, ids = zip(*batch.rows, strict=True)
      self._done += 1
      self._complete.append(
        {
          'video': batch.video,
          'label': np.stack(labels),
          'mask': np.array(masks),
          'id': np.array(ids, np.int32),
          'failures': [failure for failures in batch.failures for failure in failures],
        }
      )

  def _give_out(self) -> None:
    while self._complete and (self._place is None or self._given < self._taken + PLACED):
      batch = self._complete.popleft()
      self._ready.put(self._place(batch) if self._place else batch)
      self._given += 1
