# SPDX-License-Identifier: Apache-2.0
"""Checks whether a training step fits into device memory, before anything runs."""
