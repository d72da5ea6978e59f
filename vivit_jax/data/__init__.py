# SPDX-License-Identifier: Apache-2.0
"""Videos on disk to uint8 batches."""
