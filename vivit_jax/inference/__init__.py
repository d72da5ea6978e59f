# SPDX-License-Identifier: Apache-2.0
"""Inference: predictions, features, attention maps, long videos, export and a local web page."""
