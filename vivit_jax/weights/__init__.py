# SPDX-License-Identifier: Apache-2.0
"""Reads, converts, writes and downloads checkpoints of any format."""
