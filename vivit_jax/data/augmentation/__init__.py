# SPDX-License-Identifier: Apache-2.0
"""Training augmentation, with the same random parameters for all frames of a clip."""
