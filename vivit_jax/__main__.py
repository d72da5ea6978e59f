# SPDX-License-Identifier: Apache-2.0
"""`python -m vivit_jax` is the `vivit` command."""

from vivit_jax.cli.main import entry

entry()
