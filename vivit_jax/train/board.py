# SPDX-License-Identifier: Apache-2.0
"""Numbers for TensorBoard, written by who gives them.

tensorboardX's own is a thread, which dies of a full disk; the run would wait for it for ever.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from vivit_jax.files import naming


class Board:
  """One event file; OSError where it cannot be written."""

  def __init__(self, folder: Path, first_step: int):
    """Opens a file, in which steps from the first on replace those of earlier files."""
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder
    with naming(folder):
      self._writer = EventsWriter(str(folder / 'events'))
      restart = SessionLog(status=SessionLog.START)
      self._writer.write_event(Event(step=first_step, session_log=restart))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of a step by their tags."""
    with naming(self._folder):
      for tag, value in values.items():
        self._writer.write_event(
          Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
        )
      self._writer.flush()

  def close(self) -> None:
    """Closes the file."""
    with naming(self._folder):
      self._writer.close()
