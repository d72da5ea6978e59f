# SPDX-License-Identifier: Apache-2.0
"""Trained models at work: features, attention maps, long videos, export and a local page."""
