# SPDX-License-Identifier: Apache-2.0
"""Computes the size of the deliberate deviations from Scenic and the paper."""

# Run from the repository root: python experiments/fidelity.py
# tests/test_fidelity.py holds docs/fidelity.md to what this prints.

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_sample_image

import recipes
from vivit_jax.config.augment import RandAugment, TrainingCrop
from vivit_jax.config.schema import Clip, Config, Task
from vivit_jax.data.augmentation import rand_augment as do
from vivit_jax.data.augmentation.crop import draw_crop
from vivit_jax.data.augmentation.rand_augment import KINDS, draw_operations
from vivit_jax.data.video.sampling import training_clip
from vivit_jax.model.transformer import drop_path_rates
from vivit_jax.train import losses
from vivit_jax.train.optimizer import total_steps

DRAWS = 4000
PAPER_MAGNITUDES = {'epic_kitchens': 15.0, 'something_something_v2': 20.0}
MODEL = 'B/16x2,factorised_encoder'


def photo_clip(size: int = 224) -> np.ndarray:
  """Returns 4 frames of a camera that pans over a photograph, uint8 [4, size, size, 3]."""
  photo = load_sample_image('china.jpg')
  photo = cv2.resize(photo, None, fx=size / 320, fy=size / 320, interpolation=cv2.INTER_AREA)
  top, move = size // 8, size // 8
  return np.stack([photo[top : top + size, move * f : move * f + size] for f in range(4)])


def operations_of(settings: RandAugment) -> tuple[float, float]:
  """Returns operations a clip, and the share of clips that stay as they were."""
  rng, video = np.random.default_rng(0), photo_clip(32)
  counts, same = [], []
  for _ in range(DRAWS):
    drawn, result = draw_operations(settings, rng), video
    for operation in drawn:
      result = operation(result)
    counts.append(len(drawn))
    same.append(np.array_equal(result, video))
  return float(np.mean(counts)), float(np.mean(same))


def outside(settings: RandAugment) -> tuple[float, float]:
  """Returns the share of gray pixels, and of clips with more than 60 % of them.

  Of all drawn operations those count that move pixels, and cutout: on a white clip.
  """
  rng, video = np.random.default_rng(0), np.full((1, 224, 224, 3), 255, np.uint8)
  shares = []
  for _ in range(DRAWS // 8):
    result = video
    for operation in draw_operations(settings, rng):
      if KINDS[operation.name].moves or operation.name == 'Cutout':
        result = operation(result)
    shares.append(np.mean(result == 128))
  return float(np.mean(shares)), float(np.mean(np.array(shares) > 0.6))


def modern_operations() -> str:
  settings = _modern().augment.rand_augment
  count, same = operations_of(settings)
  always = RandAugment(settings.layers, settings.magnitude, fill=settings.fill)
  before, none = operations_of(always)
  return (
    f'{count:.2f} operations a clip and {same:.0%} of clips unchanged; '
    f'{before:.2f} and {none:.0%} with probability 1'
  )


def gray() -> str:
  cells = []
  for name, magnitude in PAPER_MAGNITUDES.items():
    settings = recipes.recipe(name, MODEL).augment.rand_augment
    assert settings.magnitude == magnitude
    ours, _ = outside(settings)
    theirs, most = outside(RandAugment(settings.layers, magnitude, fill='gray'))
    cells.append(
      f'magnitude {magnitude:.0f}: {ours:.0%} of the pixels gray, by cutout; {theirs:.0%} with '
      f'`gray`, where {most:.0%} of clips lose more than 60%'
    )
  return '; '.join(cells)


def _levels(name: str, change: Callable[[np.ndarray, float], np.ndarray]) -> str:
  """Returns the mean difference of Scenic's operation from ours at the paper's magnitudes."""
  video, cells = photo_clip(), []
  for magnitude in PAPER_MAGNITUDES.values():
    argument = float(KINDS[name].argument(magnitude / 10))
    ours = getattr(do, name.lower())(video, argument).astype(int)
    cells.append(f'{np.abs(ours - change(video, argument)).mean():.0f}')
  return f'{" / ".join(cells)} levels at magnitude 15 / 20'


def contrast() -> str:
  def from_white(video: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(255 + factor * (video.astype(float) - 255), 0, 255).astype(int)

  return _levels('Contrast', from_white)


def solarize() -> str:
  def wrapped(video: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(video < int(threshold) % 256, video, 255 - video).astype(int)

  return _levels('Solarize', wrapped)


def cutout() -> str:
  return f'{do.GRAY} levels inside the square'


def steps() -> str:
  cells = []
  for name, title in recipes.DATA_SETS.items():
    config = recipes.recipe(name, MODEL)
    batch, epochs = config.train.batch_size, config.train.epochs
    videos = 1000 * batch + batch - 1
    cells.append(f'{title} {total_steps(config, videos) - int(videos // batch * epochs)}')
  return f'at most {", ".join(cells)} steps more'


def last_start() -> str:
  clip, length = Clip(), 200
  rng, times = np.random.default_rng(0), np.arange(length) / 25
  last = max(int(training_clip(times, clip, rng)[0]) for _ in range(DRAWS))
  return f'L - {length - last} against L - {clip.frames * clip.stride}'


def multi_label_smoothing() -> str:
  """Reads an absent class's target off the gradient at logits of 0: sigmoid(0) - target."""
  task, smoothing, classes = Task('multi_label', ('tags',), (20,)), 0.1, 20
  zeros = jnp.zeros((1, classes))
  gradient = jax.grad(lambda logits: losses.loss(task, logits, zeros, smoothing))(zeros)
  ours = 0.5 - float(gradient[0, 0])
  theirs = smoothing / classes
  return f'target of an absent class: {ours:.3f} against {theirs:.3f} (l = 0.1, C = {classes})'


def dropout() -> str:
  rates = {_setting(name, 'model.dropout') for name in recipes.DATA_SETS}
  return f'none: the recipes have rate {", ".join(f"{rate:g}" for rate in sorted(rates))}'


def model_3_depth() -> str:
  model = 'B/16x2,factorised_self_attention'
  rates = {
    title: recipes.recipe(name, model).model.drop_path for name, title in recipes.DATA_SETS.items()
  }
  return ', '.join(f'{title} {rate:g} against 0' for title, rate in rates.items() if rate)


def epic_views() -> str:
  config = recipes.recipe('epic_kitchens', f'{recipes.MODEL},scenic')
  return f'{config.evaluate.spatial_views} against 3'


def resizing() -> str:
  """Scenic's two resizes, each cut off to whole levels, and the crop between them and our one."""
  cells = []
  for height, width in ((256, 384), (427, 640)):
    photo = cv2.resize(
      load_sample_image('china.jpg'), (width, height), interpolation=cv2.INTER_AREA
    )
    differences = []
    for factor in (0.9, 1.0, 1.1, 1.2, 1.33):
      crop = draw_crop(
        Clip(), TrainingCrop(scale=(factor, factor)), False, np.random.default_rng(0)
      )
      box = crop.boxes(height, width)[0]
      theirs = photo
      for scale in (256 / height, factor):
        size = tuple(round(n * scale) for n in theirs.shape[1::-1])
        theirs = np.floor(cv2.resize(theirs.astype(np.float32), size)).astype(np.uint8)
      zoom = theirs.shape[0] / height
      top = min(round(zoom * box.top), theirs.shape[0] - 224)
      left = min(round(zoom * box.left), theirs.shape[1] - 224)
      theirs = theirs[top : top + 224, left : left + 224]
      differences.append(np.abs(crop(photo).astype(int) - theirs).mean())
    cells.append(f'{np.mean(differences):.1f} levels from {width}x{height}')
  return ', '.join(cells)


def _setting(name: str, path: str) -> float:
  return recipes.setting(recipes.recipe(name, recipes.MODEL), path)


def temporal_layers() -> str:
  return f'{_setting("kinetics400", "model.temporal_layers")} against 4'


def depth_schedule() -> str:
  name = 'something_something_v2'
  models = [recipes.recipe(name, f'{recipes.MODEL}{word}').model for word in ('', ',scenic')]
  ours, theirs = (drop_path_rates(model, model.layers)[0] for model in models)
  return f'rate of the first of {models[0].layers} layers on SSv2: {ours:g} against {theirs:g}'


def modern_start() -> str:
  return f'first step: {_modern().train.warmup_start:.1%} of the peak against 0'


def modern_batch() -> str:
  config = _modern()
  videos = config.train.batch_size // config.augment.repeated_augmentation
  return f'{videos} videos against {64 * 6} for B'


def _modern() -> Config:
  return recipes.recipe('kinetics400', f'{MODEL},modern')


SIZES: dict[str, Callable[[], str]] = {  # by the first cell of a row of docs/fidelity.md
  'what moves in, RandAugment': gray,
  'operations that act, `modern`': modern_operations,
  'temporal layers of L on Kinetics': temporal_layers,
  'rates of stochastic depth': depth_schedule,
  'stochastic depth in model 3': model_3_depth,
  'dropout in the factorised encoder': dropout,
  'label smoothing, multi-label': multi_label_smoothing,
  'steps of a run': steps,
  'last start of a training clip': last_start,
  'resizing': resizing,
  'contrast': contrast,
  'cutout': cutout,
  'solarize': solarize,
  'views of Epic-Kitchens, `scenic`': epic_views,
  'start of the warm-up, `modern`': modern_start,
  'batches, `modern`': modern_batch,
}


def main() -> None:
  """Prints the size of every row, and how many cells of the paper's Table 7 differ."""
  for name, size in SIZES.items():
    print(f'{name}: {size()}')
  print(table_7())


def table_7() -> str:
  """Returns how many of the values that the paper gives for its data sets differ here."""
  given, different = 0, []
  for _, path, values in recipes.PAPER:
    values = values * len(recipes.DATA_SETS) if len(values) == 1 else values
    for name, value in zip(recipes.DATA_SETS, values, strict=True):
      given += value is not None
      if value is not None and value != _setting(name, path):
        different.append(f'`{path}` on {recipes.DATA_SETS[name]}')
  return f'{given} values, of which {len(different)} differ: {", ".join(different)}'


if __name__ == '__main__':
  main()
