# SPDX-License-Identifier: Apache-2.0
"""Video Vision Transformers (ViViT, Arnab et al., ICCV 2021) in JAX."""

__version__ = '0.1.0'
