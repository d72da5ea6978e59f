# SPDX-License-Identifier: Apache-2.0
"""What a run is made of: settings, their defaults and checks, and config files."""
