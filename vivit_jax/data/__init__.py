# SPDX-License-Identifier: Apache-2.0
"""Reads videos from disk into uint8 batches."""
