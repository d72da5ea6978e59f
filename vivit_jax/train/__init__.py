# SPDX-License-Identifier: Apache-2.0
"""Losses, optimiser, the jitted step and the loop around it."""
