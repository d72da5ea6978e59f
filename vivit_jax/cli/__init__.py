# SPDX-License-Identifier: Apache-2.0
"""The `vivit` command, one file per subcommand; libraries are imported late to keep --help fast."""
