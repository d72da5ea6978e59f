# SPDX-License-Identifier: Apache-2.0
"""The Python API: models and training, implemented with the same code as the commands."""
