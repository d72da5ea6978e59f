# SPDX-License-Identifier: Apache-2.0
"""Cost per clip of each training augmentation, on host and device, and example images."""

# Run from the repository root:
#   python experiments/augmentation.py [--rounds=9] [--picture=FILE.jpg]
# Host: CPU time of one thread. Device: wall-clock of the same operation in JAX, compiled, on the
# first device there is, with the clip already on it. Both medians, taken in turns.

import argparse
import time
from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_image

from vivit_jax.config.augment import Augment, ColorJitter, RandAugment, RandomErasing, TrainingCrop
from vivit_jax.config.schema import Clip
from vivit_jax.data.augmentation.augment import draw
from vivit_jax.data.augmentation.color import ColorChange, drop_color
from vivit_jax.data.augmentation.erase import Noise
from vivit_jax.data.augmentation.rand_augment import KINDS, Operation

CLIP = Clip()
WEIGHTS = jnp.array([0.299, 0.587, 0.114])
LEVELS = jnp.arange(256)
CHANGE = ColorChange(0.1, 1.3, 0.7, 0.15)
NOISE = Noise(40, 60, 112, 84, seed=0)
RECIPES = {
  'Kinetics: colours': Augment(color_jitter=ColorJitter(probability=0.8, drop=0.1)),
  'Epic-Kitchens: RandAugment 2, 15': Augment(rand_augment=RandAugment(2, 15.0)),
  'Something-Something: RandAugment 2, 20': Augment(rand_augment=RandAugment(2, 20.0)),
}


def photo_clip() -> np.ndarray:
  """Returns 32 frames of a camera that pans over a photograph, uint8 [32, 224, 224, 3]."""
  photo = load_sample_image('china.jpg')
  photo = cv2.resize(photo, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
  return np.stack([photo[40:264, 3 * f : 3 * f + 224] for f in range(CLIP.frames)])


def as_levels(values: jax.Array) -> jax.Array:
  return jnp.clip(jnp.round(values), 0, 255).astype(jnp.uint8)


def device_blend(video: jax.Array, other: jax.Array, factor: float) -> jax.Array:
  return as_levels(other + factor * (video.astype(jnp.float32) - other))


def device_statistics(video: jax.Array, table: Callable) -> jax.Array:
  """Replaces values by a table that comes from each channel's histogram."""
  counts = [jnp.bincount(video[..., c].ravel(), length=256) for c in range(3)]
  return jnp.stack([as_levels(table(n))[video[..., c]] for c, n in enumerate(counts)], -1)


def stretched(counts: jax.Array) -> jax.Array:
  low, high = jnp.argmax(counts > 0), 255 - jnp.argmax(counts[::-1] > 0)
  return (LEVELS - low) * 255 // jnp.maximum(high - low, 1)


def equalized(counts: jax.Array) -> jax.Array:
  step = (counts.sum() - counts[255 - jnp.argmax(counts[::-1] > 0)]) // 255
  before = jnp.concatenate([jnp.zeros(1, counts.dtype), jnp.cumsum(counts)[:-1]])
  return (before + step // 2) // jnp.maximum(step, 1)


def mirrored(place: np.ndarray, length: int) -> np.ndarray:
  """Returns the pixel that a place shows which may be outside: d c b a | a b c d | d c b a."""
  place = place % (2 * length)
  return np.minimum(place, 2 * length - 1 - place)


def device_warp(video: jax.Array, matrix: np.ndarray, middle: float) -> jax.Array:
  """Shows the nearest pixel at matrix @ place, around `middle`, mirrored outside."""
  rows, columns = np.mgrid[: CLIP.height, : CLIP.width] - middle
  x, y = np.rint(np.einsum('ij,jhw->ihw', matrix, np.stack([columns, rows])) + middle).astype(int)
  return video[:, mirrored(y, CLIP.height), mirrored(x, CLIP.width)]


def device_sharpness(video: jax.Array, factor: float) -> jax.Array:
  kernel = jnp.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
  smooth = jax.lax.conv_general_dilated(
    video.astype(jnp.float32), jnp.tile(kernel[:, :, None, None], (1, 1, 1, 3)), (1, 1), 'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=3,
  )  # fmt: skip
  return device_blend(video, smooth, factor)


def device_color(video: jax.Array) -> jax.Array:
  """CHANGE, without its detour over angles: hue turns by one of six cases per pixel."""
  x = video / 255 + CHANGE.brightness
  value, least = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
  share = (value - least) / jnp.maximum(value, 1e-6)
  x = value - (value - x) * jnp.minimum(CHANGE.saturation, 1 / jnp.maximum(share, 1e-6))
  mean = x.mean((1, 2), keepdims=True)
  x = mean + CHANGE.contrast * (x - mean)
  value, least = x.max(-1), x.min(-1)
  size = jnp.maximum(value - least, 1e-6)
  red, green, blue = x[..., 0], x[..., 1], x[..., 2]
  angle = jnp.where(
    value == red, (green - blue) / size,
    jnp.where(value == green, 2 + (blue - red) / size, 4 + (red - green) / size),
  )  # fmt: skip
  steps = (jnp.array([5.0, 3.0, 1.0]) + (angle + 6 * CHANGE.hue)[..., None]) % 6
  part = jnp.clip(jnp.minimum(steps, 4 - steps), 0, 1)
  return as_levels(255 * (value[..., None] - size[..., None] * part))


def device_operation(name: str, argument: float) -> Callable[[jax.Array], jax.Array]:
  """Returns an operation of RandAugment in JAX."""
  cos, sin = np.cos(np.radians(argument)), np.sin(np.radians(argument))
  middle = (CLIP.height - 1) / 2
  box = slice(112 - int(argument), 112 + int(argument)) if name == 'Cutout' else slice(0)
  shift = max(0, 8 - int(argument))
  moved = {'TranslateX': (1, argument), 'TranslateY': (0, argument)}.get(name, (0, 0.0))
  rows = np.arange(CLIP.height) + int(moved[1])
  functions: dict[str, Callable[[jax.Array], jax.Array]] = {
    'AutoContrast': lambda v: device_statistics(v, stretched),
    'Equalize': lambda v: device_statistics(v, equalized),
    'Invert': lambda v: 255 - v,
    'Rotate': lambda v: device_warp(v, np.array([[cos, sin], [-sin, cos]]), middle),
    'Posterize': lambda v: v >> shift << shift,
    'Solarize': lambda v: jnp.where(v.astype(jnp.int32) < argument, v, 255 - v),
    'Color': lambda v: device_blend(v, (v @ WEIGHTS)[..., None], argument),
    'Contrast': lambda v: device_blend(v, (v.mean((0, 1, 2)) @ WEIGHTS), argument),
    'Brightness': lambda v: as_levels(argument * v),
    'Sharpness': lambda v: device_sharpness(v, argument),
    'ShearX': lambda v: device_warp(v, np.array([[1, argument], [0, 1]]), 0.0),
    'ShearY': lambda v: device_warp(v, np.array([[1, 0], [argument, 1]]), 0.0),
    'Cutout': lambda v: v.at[:, box, box].set(128),
    'SolarizeAdd': lambda v: jnp.where(v < 128, as_levels(v + argument), v),
  }
  if name in ('TranslateX', 'TranslateY'):
    axis = 2 if moved[0] else 1
    return lambda v: jnp.take(v, mirrored(rows, CLIP.height), axis=axis)
  return functions[name]


def device_noise(video: jax.Array) -> jax.Array:
  noise = 117 + 58 * jax.random.normal(jax.random.key(0), (CLIP.frames, 112, 84, 3))
  return video.at[:, 40:152, 60:144].set(as_levels(noise))


def pairs(magnitude: float) -> dict[str, tuple[Callable, Callable]]:
  """Returns each operation for host and device."""
  found: dict[str, tuple[Callable, Callable]] = {
    'mirror': (lambda v: np.stack([cv2.flip(f, 1) for f in v]), lambda v: v[:, :, ::-1]),
    'colour jitter': (CHANGE, device_color),
    'colour drop': (
      drop_color,
      lambda v: jnp.broadcast_to(as_levels(v @ WEIGHTS)[..., None], v.shape),
    ),
    'random erasing': (NOISE, device_noise),
  }
  for name, kind in KINDS.items():
    argument = float(kind.argument(magnitude / 10))
    found[name] = (Operation(name, argument, 0.5, 0.5), device_operation(name, argument))
  return found


def print_table(rounds: int) -> None:
  """Measures everything and prints it as Markdown."""
  video = photo_clip()
  on_device = jnp.asarray(video)
  device = jax.devices()[0]
  print(f'| operation | host, ms | {device.platform} ({device.device_kind}), ms | agree |')
  print('|---|---:|---:|---:|')
  for name, (host, other) in pairs(15.0).items():
    compiled = jax.jit(other)
    result = np.asarray(jax.block_until_ready(compiled(on_device)))
    near = np.abs(result.astype(int) - host(video)) <= 2
    times = []
    for _ in range(rounds):
      began = time.process_time()
      host(video)
      between = time.perf_counter()
      own = time.process_time() - began
      jax.block_until_ready(compiled(on_device))
      times.append((own, time.perf_counter() - between))
    own, theirs = 1e3 * np.median(times, axis=0)
    print(f'| {name} | {own:.1f} | {theirs:.1f} | {100 * near.mean():.1f} % |', flush=True)
  print('\n| recipe, drawn 100 times | median, ms | 90 % below, ms |\n|---|---:|---:|')
  for name, settings in RECIPES.items():
    spent = []
    for seed in range(100):
      rng = np.random.default_rng(seed)
      began = time.process_time()
      draw(CLIP, settings, rng)(video)
      spent.append(1e3 * (time.process_time() - began))
    print(f'| {name} | {np.median(spent):.1f} | {np.percentile(spent, 90):.1f} |', flush=True)


def write_picture(file: str) -> None:
  """Writes two frames of every operation, with its name."""
  video = photo_clip()[[0, -1]]
  clip = Clip(frames=2)
  whole = load_sample_image('china.jpg')
  shown: dict[str, Callable] = {'as it was': lambda v: v}
  for kind, seed in (('scale_jitter', 1), ('inception', 3)):
    crop = draw(clip, Augment(crop=TrainingCrop(kind=kind)), np.random.default_rng(seed)).crop  # type: ignore[arg-type]
    shown[kind] = lambda v, crop=crop: np.stack([crop(whole)] * 2)
  shown |= {name: host for name, (host, _) in pairs(15.0).items() if name != 'mirror'}
  noise = draw(clip, Augment(random_erasing=RandomErasing(1.0)), np.random.default_rng(5))
  shown['random erasing'] = noise
  tiles = []
  for name, change in shown.items():
    small = [cv2.resize(f, (112, 112), interpolation=cv2.INTER_AREA) for f in change(video)]
    tile = np.full((132, 230, 3), 255, np.uint8)
    tile[18:130, 2:114], tile[18:130, 114:226] = small
    cv2.putText(tile, name, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    tiles.append(tile)
  tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 4)
  rows = [np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)]
  cv2.imwrite(file, np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
  """Prints the tables, or writes the picture."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=9, help='of each (default: %(default)s)')
  parser.add_argument('--picture', help='write a contact sheet to this file instead')
  options = parser.parse_args()
  cv2.setNumThreads(1)
  if options.picture:
    write_picture(options.picture)
  else:
    print_table(options.rounds)


if __name__ == '__main__':
  main()
