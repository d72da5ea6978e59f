# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of any format, read, renamed, written, and fetched where they are remote."""
