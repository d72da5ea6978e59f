# SPDX-License-Identifier: Apache-2.0
"""What is asked of those who decode, and what they answer."""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from vivit_jax.data.loader.buffers import Place
from vivit_jax.data.records import Attempt, Failure, Reader
from vivit_jax.data.stages import stage
from vivit_jax.data.video.decode import DecodeError

QUEUE = 2  # jobs of a decoder that need not wait for bytes: it never idles between two


@dataclasses.dataclass(frozen=True)
class Job:
  """One attempt, and where its pixels go."""

  ticket: int  # place of the example in the stream; low ones are wanted first
  attempt: Attempt
  places: tuple[Place, ...]  # one per view


@dataclasses.dataclass(frozen=True)
class Answer:
  """How a job ended; exactly one of label and failure is given."""

  ticket: int
  index: int  # of the video
  label: np.ndarray | None = None
  failure: Failure | None = None


def do(job: Job, reader: Reader, row: Callable[[Place], np.ndarray]) -> Answer:
  """Reads a video and writes its views to their rows."""
  try:
    pixels, label = reader(job.attempt)
  except DecodeError as error:
    return Answer(job.ticket, job.attempt.index, failure=(error.path, error.reason))
  for place, view in zip(job.places, pixels, strict=True):
    with stage('batch'):
      row(place)[...] = view
  return Answer(job.ticket, job.attempt.index, label=label)


@runtime_checkable
class Decoders(Protocol):
  """Threads or processes that do jobs; used by one thread, but for `wake`."""

  jobs: int  # that should be there for them to do, or some are idle

  def start(self) -> None:
    """Starts them."""

  def submit(self, job: Job) -> None:
    """Adds a job; never blocks."""

  def answers(self) -> list[Answer]:
    """Waits for answers or for `wake`, and returns what came."""

  def wake(self) -> None:
    """Ends the waiting of another thread in `answers`."""

  def close(self) -> None:
    """Ends them, whatever they are doing."""
