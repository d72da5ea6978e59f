# SPDX-License-Identifier: Apache-2.0
"""Data sets prepared once: videos encoded anew, in shards."""
