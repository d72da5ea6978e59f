# SPDX-License-Identifier: Apache-2.0
"""Multi-device and multi-process runs: meshes, sharding, messages, startup and shutdown."""
