# SPDX-License-Identifier: Apache-2.0
"""Draws maps over frames, as a video and as a strip of images."""

import io
from fractions import Fraction

import av
import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

SHOWN = 224  # minimum shorter side in pixels; small clips are enlarged
STRIP = 8  # frames in a strip
HEAT = 0.75  # opacity of the color at the maximum of the map


def overlay(
  frames: UInt8[np.ndarray, 'f h w 3'], grid: Float[np.ndarray, 't y x']
) -> UInt8[np.ndarray, 'f h2 w2 3']:
  """Returns grayscale frames with the map in color on top, enlarged if they are small.

  The color scale is shared by the whole clip, from its minimum to its maximum, so frames without
  attention stay dark.

  Args:
    frames: RGB frames.
    grid: map over the tokens; each covers f / t frames, or with sampled frames the nearest ones.
  """
  scale = -(-SHOWN // min(frames.shape[1:3]))
  height, width = (side * scale // 2 * 2 for side in frames.shape[1:3])
  low, high = float(grid.min()), float(grid.max())
  unit = ((grid - low) / (high - low if high > low else 1.0)).astype(np.float32)
  result = np.empty((len(frames), height, width, 3), np.uint8)
  for k, frame in enumerate(frames):
    heat = cv2.resize(unit[k * len(unit) // len(frames)], (width, height)).clip(0, 1)
    color = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_PLASMA)[..., ::-1]
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    large = cv2.resize(gray, (width, height), interpolation=cv2.INTER_NEAREST)[..., None]
    share: Float32[np.ndarray, 'h w 1'] = (HEAT * heat)[..., None]
    result[k] = large * (1 - share) + color * share
  return result


def as_mp4(frames: UInt8[np.ndarray, 'f h w 3'], seconds: float) -> bytes:
  """Returns an H.264 file that browsers can play; `seconds` is the duration of each frame."""
  buffer = io.BytesIO()
  rate = Fraction(1 / seconds).limit_denominator(1000)
  # Fragmented, since writing the index of a regular mp4 needs seeking.
  flags = {'movflags': 'frag_keyframe+empty_moov'}
  with av.open(buffer, 'w', format='mp4', options=flags) as container:
    stream = container.add_stream('libx264', rate=rate, options={'crf': '18', 'bf': '0'})
    stream.height, stream.width = frames.shape[1:3]
    stream.pix_fmt = 'yuv420p'
    for image in frames:
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
    container.mux(stream.encode())
  return buffer.getvalue()


def as_png(frames: UInt8[np.ndarray, 'f h w 3'], shown: UInt8[np.ndarray, 'f h2 w2 3']) -> bytes:
  """Returns a strip of up to STRIP frames from first to last, each with its map below."""
  chosen = np.unique(np.linspace(0, len(frames) - 1, min(STRIP, len(frames))).round().astype(int))
  height, width = shown.shape[1:3]
  above = [cv2.resize(f, (width, height), interpolation=cv2.INTER_AREA) for f in frames[chosen]]
  picture = np.concatenate([np.concatenate(above, 1), np.concatenate(shown[chosen], 1)])
  done, png = cv2.imencode('.png', picture[..., ::-1])
  assert done
  return png.tobytes()
