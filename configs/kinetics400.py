# SPDX-License-Identifier: Apache-2.0
"""Kinetics-400, paper Table 7: `vivit train --config=configs/kinetics400.py:B/16x2 ...`."""

from vivit_jax.config_file import apply_variant, defaults


def get_config(variant: str = 'B/16x2'):
  config = apply_variant(defaults(), variant)
  config.model.temporal_layers = 24 if config.model.layers == 24 else 4
  return config
