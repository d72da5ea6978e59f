# SPDX-License-Identifier: Apache-2.0
"""Several devices and several processes: meshes, placement, messages, start and end."""
