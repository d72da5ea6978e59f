# SPDX-License-Identifier: Apache-2.0
"""Roofline of a compiled step: lower bound on its time from peak FLOP/s and memory bandwidth."""

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
  """Roofline analysis of a compiled training step on one device.

  Attributes:
    milliseconds: lower bound: the sum over kernels of max(FLOPs / peak, bytes / bandwidth).
    percent_of_peak: utilization by useful FLOPs in that time.
    compiler_milliseconds: from the TPU compiler's cycles, with Pallas kernels by roofline; None for
      GPUs.
    compiler_percent_of_peak: utilization by useful FLOPs in that time.
    useful_flops: see `useful_flops`; without padding tokens.
    flops: FLOPs of the program, including recomputation.
    bytes: bytes read and written in device memory.
    temporary_bytes: memory in addition to state and batch.
    kernels: number of launches.
    conditionals: number of conditionals on the device.
    collectives: kind -> (number, bytes of the global arrays).
    dearest: the slowest kernels, with their milliseconds.
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
  """Returns the FLOPs of the matrix products of a training step, without recomputation.

  With frozen parts, which have no backward pass, only the forward pass is counted: a lower bound.
  """
  clip = (
    model_cost(build(config), config.clip).matmul_gflops * 1e9
  )  # multiply-adds of the forward pass
  return (1 if config.train.freeze else 3) * 2 * clip * config.train.batch_size


def seconds(kernel: Kernel, target: Target) -> float:
  """Returns the lower bound on the total time of a kernel, in seconds."""
  peak = target.flops
  if 'fmha' in kernel.kind:
    peak = ATTENTION_FLOPS['Backward' in kernel.kind]
  elif kernel.kind == PALLAS:
    peak = target.flops / 2  # 64 channels use half of the multipliers
  return max(kernel.flops / peak, kernel.bytes / target.bandwidth)


def roofline(
  text: str, target: Target, useful: float, devices: int, temporary: int, most: int = 10
) -> Roofline:
  """Analyzes a compiled step.

  Args:
    text: optimized HLO text of the program of one device.
    target: the device type.
    useful: useful FLOPs of the step, over all devices.
    devices: number of devices.
    temporary: bytes of temporaries, in addition to state and batch.
    most: number of slowest kernels to list.
  """
  program = Program(text)
  rows = program.kernels()
  total = sum(seconds(row, target) for row in rows)
  # The compiler has no cycle counts for Pallas kernels.
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
