# SPDX-License-Identifier: Apache-2.0
"""Batches filled by threads or by processes that may crash."""
