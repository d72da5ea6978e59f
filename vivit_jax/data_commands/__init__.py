# SPDX-License-Identifier: Apache-2.0
"""What `vivit data` does with videos before training: one file per command."""
