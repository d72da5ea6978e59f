# SPDX-License-Identifier: Apache-2.0
"""Whether a training step fits into the devices' memory, before anything runs."""
