# SPDX-License-Identifier: Apache-2.0
"""The device mesh: sizes of its axes, checks of the config against it, and device order."""

import dataclasses
import math

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from vivit_jax.config.schema import Config
from vivit_jax.config.schema import Mesh as MeshConfig
from vivit_jax.errors import ConfigError

AXES = tuple(field.name for field in dataclasses.fields(MeshConfig))


def check_devices(config: Config, devices: int) -> tuple[int, int, int]:
  """Returns the sizes of the axes (data, fsdp, context) on `devices` devices.

  Raises:
    ConfigError: the product of the axes is not the number of devices, or a clip, tubelet or group
      of clips would be split between devices.
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
  if own % train.grad_accum_steps:
    raise ConfigError(
      f'config.train.grad_accum_steps={train.grad_accum_steps} does not divide the {own} clips of '
      'each device: give a divisor'
    )
  if train.grad_clip_groups and (fsdp > 1 or context > 1):
    raise ConfigError(
      f'config.train.grad_clip_groups={train.grad_clip_groups} needs the whole gradient of a '
      f'group on one device, but config.mesh.fsdp={fsdp} x context={context} shards it: use '
      'grad_clip_groups=0'
    )
  if (mix.mixup or mix.cutmix) and own % mix.group_size:
    raise ConfigError(
      f'config.mix.group_size={mix.group_size} does not divide the {own} clips of each device: '
      'give a divisor'
    )
  return shape


def _shape(mesh: MeshConfig, devices: int) -> tuple[int, int, int]:
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
  """Returns a remedy for the error message: the smallest valid `context`, if there is one."""
  data, fsdp, context = shape
  for factor in range(2, min(data, _tubelets(config) // context) + 1):
    fits = data % factor == 0 and batch % (data // factor * fsdp) == 0
    if fits and _tubelets(config) % (context * factor) == 0:
      return f'split the frames of a clip with config.mesh.context={context * factor}'
  return 'give a larger batch, or fewer devices'


def make_mesh(config: Config | None, devices: list[jax.Device] | None = None) -> Mesh:
  """Returns a mesh over `devices` (default: all), after checking that the config fits on it.

  Without a config, all devices are on the axis `data`.

  Raises:
    ConfigError: the mesh does not match the devices, or a batch is not divisible by it.
  """
  try:
    devices = devices or jax.devices()
  except RuntimeError as error:  # JAX_PLATFORMS names an unavailable platform
    raise ConfigError(f'JAX finds no device: {" ".join(str(error).split())}') from None
  shape = (len(devices), 1, 1) if config is None else check_devices(config, len(devices))
  grid = _by_host(shape, devices) if shape[2] > 1 else _by_network(shape, devices)
  return Mesh(grid, AXES)


def _by_host(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
  """Returns the device grid with the devices that share a clip next to each other on one host."""
  grid = np.array(sorted(devices, key=lambda d: (_slice(d), d.process_index, d.id))).reshape(shape)
  for group in grid.reshape(-1, shape[2]):
    hosts = sorted({device.process_index for device in group})
    if len(hosts) > 1:
      raise ConfigError(
        f'config.mesh.context={shape[2]} would split a clip over the hosts {hosts}, but a host '
        'decodes whole clips: give a divisor of the number of devices per host'
      )
  return grid


def _by_network(shape: tuple[int, int, int], devices: list[jax.Device]) -> np.ndarray:
  """Returns the device grid in network order; slow links between slices are on axis `data`."""
  slices = len({_slice(device) for device in devices})
  if slices == 1 or devices[0].platform != 'tpu':
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  data, fsdp, context = shape
  if data % slices:
    raise ConfigError(
      f'config.mesh.data={data} is not divisible by the {slices} slices, so parameters would '
      'be gathered over slow links between slices: make config.mesh.fsdp smaller'
    )
  return mesh_utils.create_hybrid_device_mesh(
    (data // slices, fsdp, context), (slices, 1, 1), devices, allow_split_physical_axes=True
  )


def _slice(device: jax.Device) -> int:
  return getattr(device, 'slice_index', 0)
