# SPDX-License-Identifier: Apache-2.0
"""The least time of a compiled step on a device: work over peak, or bytes over bandwidth."""

import dataclasses
from collections import defaultdict
from typing import Any

from vivit_jax.config.schema import Config
from vivit_jax.model.cost import model_cost
from vivit_jax.model.vivit import build
from vivit_jax.plan.program import Kernel, Program
from vivit_jax.plan.targets import ATTENTION_FLOPS, Target

PALLAS = 'tpu_custom_call'
SMALL = 2**16  # bytes: losses, norms and metrics


@dataclasses.dataclass(frozen=True)
class Roofline:
  """What a compiled training step does on one device.

  Attributes:
    milliseconds: the sum over kernels of the larger of FLOPs over the peak and bytes over the
      bandwidth: no step takes less.
    percent_of_peak: useful FLOPs in that time.
    compiler_milliseconds: by the TPU compiler's cycles, Pallas kernels by work; None for GPUs.
    compiler_percent_of_peak: useful FLOPs in that time.
    useful_flops: see `useful_flops`; at the true number of tokens.
    flops: that the program has, recomputation included.
    bytes: through the device's memory.
    temporary_bytes: beside state and batch.
    kernels: launches.
    conditionals: branches on the device.
    collectives: kind -> (number, bytes of the whole arrays).
    dearest: the kernels that take longest, with their milliseconds.
  """

  milliseconds: float
  percent_of_peak: float
  compiler_milliseconds: float | None
  compiler_percent_of_peak: float | None
  useful_flops: float
  flops: float
  bytes: int
  temporary_bytes: int
  kernels: int
  conditionals: int
  collectives: dict[str, tuple[int, int]]
  dearest: list[dict[str, Any]]


def useful_flops(config: Config) -> float:
  """Returns the FLOPs of a training step's matrix products, nothing computed twice.

  With frozen parts, whose backward pass is spared, it is the forward pass alone: a lower bound.
  """
  clip = model_cost(build(config), config.clip).matmul_gflops * 1e9  # multiply-adds, forwards
  return (1 if config.train.freeze else 3) * 2 * clip * config.train.batch_size


def seconds(kernel: Kernel, target: Target) -> float:
  """Returns the least time of a kernel, all its times."""
  peak = target.flops
  if 'fmha' in kernel.kind:
    peak = ATTENTION_FLOPS['Backward' in kernel.kind]
  elif kernel.kind == PALLAS:
    peak = target.flops / 2  # heads of 64 fill half of the multipliers
  return max(kernel.flops / peak, kernel.bytes / target.bandwidth)


def roofline(
  text: str, target: Target, useful: float, devices: int, temporary: int, most: int = 10
) -> Roofline:
  """Reads a compiled step.

  Args:
    text: of the optimized program of one device.
    target: the device.
    useful: FLOPs of the step, on all devices.
    devices: their number.
    temporary: bytes that the compiler plans beside state and batch.
    most: kernels to name.
  """
  program = Program(text)
  rows = program.kernels()
  total = sum(seconds(row, target) for row in rows)
  # The compiler counts no cycles of Pallas' kernels.
  opaque = sum(seconds(row, target) for row in rows if row.kind == PALLAS and not row.cycles)
  cycles = sum(row.cycles for row in rows)
  sent: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
  for kind, size, times in program.collectives():
    if size >= SMALL:
      sent[kind] = sent[kind][0] + times, sent[kind][1] + size * times
  share = 100 * useful / devices / target.flops
  compiled = cycles / target.clock + opaque if target.clock and cycles else None
  dearest = sorted(rows, key=lambda row: -seconds(row, target))[:most]
  return Roofline(
    milliseconds=1e3 * total,
    percent_of_peak=share / total,
    compiler_milliseconds=1e3 * compiled if compiled else None,
    compiler_percent_of_peak=share / compiled if compiled else None,
    useful_flops=useful / devices,
    flops=sum(row.flops for row in rows),
    bytes=sum(row.bytes for row in rows),
    temporary_bytes=temporary,
    kernels=sum(row.times for row in rows),
    conditionals=program.conditionals,
    collectives=dict(sent),
    dearest=[
      {
        'milliseconds': 1e3 * seconds(row, target),
        'times': row.times,
        'kind': row.kind,
        'name': row.name,
        'scope': row.scope,
      }
      for row in dearest
    ],
  )
