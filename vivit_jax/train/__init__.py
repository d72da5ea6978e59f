# SPDX-License-Identifier: Apache-2.0
"""Losses, optimizer, the jitted step and the train loop."""
