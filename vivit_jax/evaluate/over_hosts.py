# SPDX-License-Identifier: Apache-2.0
"""What all processes saw of the videos, in each of them, to the last bit."""

import dataclasses
import io
import json

import jax
import numpy as np
from jax.experimental import multihost_utils

from vivit_jax.evaluate.views import Predictions


def merged_over_hosts(mine: Predictions) -> Predictions:
  """Returns the predictions that one process would have collected, from each process's own.

  Only rows of videos that a process saw are sent: of all together, as many as there are videos.
  """
  if jax.process_count() == 1:
    return mine
  total = None
  for content in _gather(_pack(mine)):
    part = _unpack(content, mine)
    total = part if total is None else total.merge(part)
  assert total is not None
  return total


ARRAYS = ('logit_sums', 'views', 'labels')  # a row for each video


def _pack(mine: Predictions) -> bytes:
  buffer = io.BytesIO()
  rows = {name: getattr(mine, name)[mine.seen] for name in ARRAYS}
  failures = np.frombuffer(json.dumps(mine.failures).encode(), np.uint8)
  np.savez(buffer, seen=mine.seen, clip_hits=mine.clip_hits, failures=failures, **rows)
  return buffer.getvalue()


def _unpack(content: bytes, like: Predictions) -> Predictions:
  """Returns the predictions of another process about the videos of `like`."""
  stored = np.load(io.BytesIO(content), allow_pickle=False)
  arrays = {}
  for name in ARRAYS:
    whole = getattr(like, name)
    arrays[name] = np.full_like(whole, -1 if name == 'labels' else 0)
    arrays[name][stored['seen']] = stored[name]
  failures = tuple((path, reason) for path, reason in json.loads(stored['failures'].tobytes()))
  return dataclasses.replace(like, clip_hits=stored['clip_hits'], failures=failures, **arrays)


def _gather(content: bytes) -> list[bytes]:
  """Returns the bytes of all processes, in all; as bytes, since JAX would round float64."""
  sizes = multihost_utils.process_allgather(np.int32(len(content)))
  padded = np.zeros(sizes.max(), np.uint8)
  padded[: len(content)] = np.frombuffer(content, np.uint8)
  everyone = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes() for row, size in zip(everyone, sizes, strict=True)]
