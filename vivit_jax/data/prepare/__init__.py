# SPDX-License-Identifier: Apache-2.0
"""Checks data sets and prepares them for training: re-encoded videos in shards."""
