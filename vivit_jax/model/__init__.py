# SPDX-License-Identifier: Apache-2.0
"""Tokens, attention and the four factorisations as pure Flax modules."""
