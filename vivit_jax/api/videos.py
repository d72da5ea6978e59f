# SPDX-License-Identifier: Apache-2.0
"""Arguments that are videos: files or frames in memory, as opposed to collections of videos."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vivit_jax.data.index.videos import collect_videos
from vivit_jax.data.manifest import Video
from vivit_jax.data.video.array import FPS, FrameArray, wrong_frames
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.errors import DataError, InputError

Frames: TypeAlias = NDArray[np.uint8]  # RGB [F, H, W, 3]
Many: TypeAlias = list[str] | list[Path] | list[str | Path] | tuple[str | Path, ...]


def is_one(x: str | Path | Frames | Many) -> bool:
  """Returns whether the argument is a single video, not a collection."""
  if isinstance(x, str | Path):
    return not Path(x).is_dir() and Path(x).suffix.lower() != '.csv'
  return isinstance(x, np.ndarray)


def one_video(
  x: str | Path | Frames, fps: float | None, stride_seconds: float | None
) -> Video | FrameArray:
  """Converts a user's video to the internal type.

  Args:
    x: a file or frames.
    fps: frames per second of frames in memory.
    stride_seconds: the model's stride in seconds, if it has one.

  Raises:
    InputError: frames have a wrong type or shape, or their fps is needed but not given.
    DataError: the file does not exist.
  """
  if isinstance(x, str | Path):
    if not is_one(x):
      raise InputError(f'{x} is not one video: give a video file, or use the command for many')
    (video,) = collect_videos([x])
    return video
  if problem := wrong_frames(x):
    raise InputError(f'frames are {problem}: give RGB, uint8 [F, H, W, 3], from 0 to 255')
  if fps is not None and not 0 < fps < float('inf'):
    raise InputError(f'fps={fps} is not a number of frames per second')
  if fps is None and stride_seconds is not None:
    raise InputError(f'these weights need a frame every {stride_seconds:g} s: give the fps too')
  return FrameArray(x, FPS if fps is None else fps)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
  """Converts DecodeError to a UserError."""
  try:
    yield
  except DecodeError as error:
    raise DataError(str(error)) from error
