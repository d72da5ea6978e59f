# SPDX-License-Identifier: Apache-2.0
"""What `import vivit_jax` offers: loaded models and training, by the commands' own code."""
