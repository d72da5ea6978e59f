# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of other programs in and out, as flat NumPy arrays; knows no model code."""
