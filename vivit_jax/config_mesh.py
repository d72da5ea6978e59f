# SPDX-License-Identifier: Apache-2.0
"""How many devices each axis of the mesh gets, and which experiments fit on them."""

import dataclasses
import math

from vivit_jax.config import Config, Mesh
from vivit_jax.errors import ConfigError

AXES = tuple(field.name for field in dataclasses.fields(Mesh))


def check_mesh(mesh: Mesh) -> None:
  """Refuses axes that no number of devices could fill."""
  sizes = dataclasses.asdict(mesh)
  for name, size in sizes.items():
    if size == 0:
      raise ConfigError(f'config.mesh.{name}=0 leaves no device; use -1 for all of them')
  rest = [f'config.mesh.{name}=-1' for name, size in sizes.items() if size == -1]
  if len(rest) > 1:
    raise ConfigError(f'{" and ".join(rest)}: only one axis can take the devices that are left')


def check_devices(config: Config, devices: int) -> tuple[int, int, int]:
  """Returns the sizes of the axes (data, fsdp, context) on `devices` devices.

  Raises:
    ConfigError: where the axes do not multiply to the devices, or would cut a clip, a tubelet or a
      group of clips in two.
  """
  data, fsdp, context = shape = _shape(config.mesh, devices)
  rows = data * fsdp
  for name, size in (('train', config.train.batch_size), ('evaluate', config.evaluate.batch_size)):
    if size < rows:
      raise ConfigError(
        f'config.{name}.batch_size={size} leaves some of the {rows} devices along '
        f'config.mesh.data={data} x fsdp={fsdp} without a clip: {_remedy(config, shape, size)}'
      )
    if size % rows:
      raise ConfigError(
        f'config.{name}.batch_size={size} is not divisible by the {rows} devices along '
        f'config.mesh.data={data} x fsdp={fsdp}'
      )
  if _tubelets(config) % context or config.clip.frames % context:
    raise ConfigError(
      f'config.mesh.context={context} does not divide the {_tubelets(config)} tubelets along time '
      f'of config.clip.frames={config.clip.frames}: give a divisor'
    )
  mix, train, own = config.mix, config.train, config.train.batch_size // rows
  if own % train.accumulate:
    raise ConfigError(
      f'config.train.accumulate={train.accumulate} does not divide the {own} clips of a device, so '
      'that clips would have to cross devices'
    )
  if train.clip_groups and (fsdp > 1 or context > 1):
    raise ConfigError(
      f'config.train.clip_groups={train.clip_groups} needs the whole gradient of each group on a '
      f'device, which config.mesh.fsdp={fsdp} x context={context} splits: use clip_groups=0'
    )
  if (mix.mixup or mix.cutmix) and own % mix.group:
    raise ConfigError(
      f'config.mix.group={mix.group} does not divide the {own} clips of a device, so that clips '
      'would have to cross devices'
    )
  return shape


def _shape(mesh: Mesh, devices: int) -> tuple[int, int, int]:
  sizes = [mesh.data, mesh.fsdp, mesh.context]
  said = f'config.mesh.data={mesh.data} x fsdp={mesh.fsdp} x context={mesh.context}'
  if -1 in sizes:
    place = sizes.index(-1)
    given = math.prod(size for size in sizes if size != -1)
    if devices % given:
      raise ConfigError(f'{said} does not divide the {devices} devices')
    sizes[place] = devices // given
  if math.prod(sizes) != devices:
    raise ConfigError(
      f'{said} is a mesh of {math.prod(sizes)} devices, but there are {devices}: use -1 for one '
      'axis'
    )
  return sizes[0], sizes[1], sizes[2]


def _tubelets(config: Config) -> int:
  return config.model.sampled_frames or config.clip.frames // config.model.patch[0]


def _remedy(config: Config, shape: tuple[int, int, int], batch: int) -> str:
  """Returns the smallest context that leaves a clip for each row of devices."""
  data, fsdp, context = shape
  for factor in range(2, min(data, _tubelets(config) // context) + 1):
    fits = data % factor == 0 and batch % (data // factor * fsdp) == 0
    if fits and _tubelets(config) % (context * factor) == 0:
      return f'split the frames of a clip with config.mesh.context={context * factor}'
  return 'give a larger batch, or fewer devices'
