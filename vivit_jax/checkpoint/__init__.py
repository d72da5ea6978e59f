# SPDX-License-Identifier: Apache-2.0
"""Files of a run: checkpoints, their fingerprints, and the workdir."""
