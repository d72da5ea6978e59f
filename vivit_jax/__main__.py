# SPDX-License-Identifier: Apache-2.0
"""`python -m vivit_jax` is the `vivit` command."""

from vivit_jax.cli import entry

entry()
