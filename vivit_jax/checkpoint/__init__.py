# SPDX-License-Identifier: Apache-2.0
"""What a run keeps on disk: checkpoints, their fingerprints, and the workdir."""
