# SPDX-License-Identifier: Apache-2.0
"""Compares the estimate of `vivit plan` with XLA's memory plan for this machine's GPUs."""

# Run from the repository root, on GPUs:
#   python experiments/plan_calibration.py --config=configs/kinetics400.py:L/16x2,factorised_encoder
# Nothing is trained: the estimate is compared with the bytes per device that XLA plans.

import dataclasses
import sys

import jax

from vivit_jax.config.file import load
from vivit_jax.distributed.mesh import make_mesh
from vivit_jax.plan.memory import estimate, lower_step

CASES = (
  {'dtype': 'float32'},
  {'dtype': 'bfloat16'},
  {'dtype': 'bfloat16', 'scan': True},
  {'dtype': 'bfloat16', 'scan': True, 'remat': 'block'},
)


def main() -> None:
  """Prints the table."""
  if jax.default_backend() != 'gpu':
    sys.exit('plan_calibration: JAX finds no GPU here')
  config, devices = load(sys.argv[1:]), jax.device_count()
  print(f'{devices} x {jax.devices()[0].device_kind}')
  print(f'{"estimate GB":>12}{"XLA GB":>9}{"ratio":>7}  model')
  for case in CASES:
    model = dataclasses.replace(config.model, **case)
    changed = dataclasses.replace(config, model=model)
    guess = sum(estimate(changed, devices, 'gpu').values())
    stats = lower_step(changed, make_mesh(changed)).compile().memory_analysis()
    real = stats.argument_size_in_bytes + stats.temp_size_in_bytes
    print(f'{guess / 1e9:12.2f}{real / 1e9:9.2f}{guess / real:7.2f}  {case}', flush=True)


if __name__ == '__main__':
  main()
