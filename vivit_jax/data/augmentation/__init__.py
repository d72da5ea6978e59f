# SPDX-License-Identifier: Apache-2.0
"""Training augmentation: drawn once for a clip, the same in all of its frames."""
