# SPDX-License-Identifier: Apache-2.0
"""Mistakes a user can mend: each message is one line naming value, place and remedy."""


class UserError(Exception):
  """Base of all errors that the command line prints without a traceback."""


class ConfigError(UserError, ValueError):
  """A setting that cannot be used."""


class DataError(UserError):
  """A manifest, class list or video that cannot be used."""


class CheckpointError(UserError):
  """A checkpoint that is missing, damaged or of another model."""
