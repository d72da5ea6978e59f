# SPDX-License-Identifier: Apache-2.0
"""Fetches checkpoints from hf:// and gs:// into a cache: whole, checked, and only once."""
