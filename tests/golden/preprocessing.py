# SPDX-License-Identifier: Apache-2.0
"""What other programs make of one video: `python tests/golden/preprocessing.py` wrote the files.

Needs transformers, torch, torchvision, mediapy, av and scipy, none of ours. Each family's processor
gets the arguments that the published weights were trained with, where its class has others, and the
frames that the family's own program chooses, written out below. VideoPrism's is its notebooks'.

Written with transformers 5.24.0, torch 2.15.0, torchvision 0.29.2, mediapy 1.2.7, PyAV 18 on a CPU.
"""

from pathlib import Path
from typing import Any

import av
import mediapy
import numpy as np
import torch
import transformers
from scipy import ndimage

FOLDER = Path(__file__).parent / 'preprocessing'
VIDEO, EXPECTED = 'texture.mp4', 'expected.npz'
LENGTH, HEIGHT, WIDTH = 251, 190, 264  # centers of crops lie on half pixels
STEP = 9  # every ninth pixel of every ninth row is kept
KEPT = (0, -1)  # frames of a clip
IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}


def make_video(path: Path) -> None:
  """Writes a video of moving texture: most of its detail is as fine as that of a photograph."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(HEIGHT + 40, WIDTH + 140, 3))
  texture = sum(ndimage.gaussian_filter(noise, (s, s, 0.4)) * s**1.3 for s in (1, 3, 9, 27))
  texture = 120 + 42 * (texture - texture.mean()) / texture.std()
  with av.open(str(path), 'w') as container:
    stream: Any = container.add_stream('libx264', rate=25)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, 'yuv420p'
    stream.options = {'crf': '30', 'preset': 'veryslow'}
    for k in range(LENGTH):
      top, left = round(16 + 12 * np.sin(k / 20)), k // 2
      image = texture[top : top + HEIGHT, left : left + WIDTH].clip(0, 255).astype(np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(image, 'rgb24')))
    container.mux(stream.encode())


def read_video(path: Path) -> np.ndarray:
  """Returns all frames, uint8 [F, H, W, 3]."""
  with av.open(str(path)) as container:
    return np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])


def centered(frames: int, stride: int) -> list[int]:
  """Returns the frames of the clip in the middle: one of several clips spread over the video."""
  start = (LENGTH - ((frames - 1) * stride + 1)) // 2
  return [start + stride * k for k in range(frames)]


def equal_parts(frames: int) -> list[int]:
  """Returns the first frame of each of equal parts, as VideoPrism's notebooks write it."""
  return np.linspace(0, LENGTH, frames, endpoint=False, dtype=np.int32).tolist()


def processed(processor: Any, frames: np.ndarray) -> np.ndarray:
  """Returns what a processor gives for frames [F, H, W, 3]: float32 [F, H, W, 3]."""
  video = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
  (values,) = processor([video], return_tensors='pt').values()
  return values[0].numpy().transpose(0, 2, 3, 1)


def resized(frames: np.ndarray) -> np.ndarray:
  """Returns VideoPrism's [0, 1] of its notebooks."""
  return mediapy.to_float01(mediapy.resize_video(frames, (288, 288)))


def make(video: np.ndarray) -> dict[str, tuple[list[int], np.ndarray]]:
  """Returns the frame indices and the values of one clip, by family."""
  processors = {
    # Without its second normalization, which the weights have not seen.
    'vivit': (transformers.VivitVideoProcessor(do_normalize=False), centered(32, 2)),
    'videomae': (transformers.VideoMAEVideoProcessor(**IMAGENET), centered(16, 4)),
    'timesformer': (
      transformers.TimesformerVideoProcessor(image_mean=[0.45] * 3, image_std=[0.225] * 3),
      centered(8, 32),
    ),
    'vjepa2': (transformers.VJEPA2VideoProcessor(), centered(16, 4)),
  }
  made = {}
  for family, (processor, indices) in processors.items():
    made[family] = indices, processed(processor, video[indices])
  indices = equal_parts(16)
  made['videoprism'] = indices, resized(video[indices])
  # transformers' own choice of frames, which the converted VideoPrism uses.
  onevision = transformers.LlavaOnevisionVideoProcessor
  sampled = onevision(num_frames=16).sample_frames(
    transformers.video_utils.VideoMetadata(total_num_frames=LENGTH, fps=25), num_frames=16
  )
  assert [int(i) for i in sampled] == indices
  return made


def main() -> None:
  """Writes the two files."""
  FOLDER.mkdir(exist_ok=True)
  make_video(FOLDER / VIDEO)
  made = make(read_video(FOLDER / VIDEO))
  kept = {'frames': np.array(KEPT), 'step': np.array(STEP)}
  for family, (indices, values) in made.items():
    kept[f'{family}/indices'] = np.array(indices)
    kept[f'{family}/values'] = values[list(KEPT), ::STEP, ::STEP].astype(np.float16)
  np.savez_compressed(FOLDER / EXPECTED, **kept)
  for family, (indices, values) in made.items():
    print(family, len(indices), values.shape, float(values.min()), float(values.max()))


if __name__ == '__main__':
  main()
