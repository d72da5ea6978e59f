# SPDX-License-Identifier: Apache-2.0
"""Settings of a run with their defaults and checks, and config files."""
