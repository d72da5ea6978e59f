# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command, one file a subcommand; libraries are imported late: --help is quick."""
