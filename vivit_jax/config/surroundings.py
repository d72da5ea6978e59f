# SPDX-License-Identifier: Apache-2.0
"""Settings for logging, checkpoints and fault handling."""

import dataclasses
from typing import Literal

from vivit_jax.config.augment import Count, Seconds


@dataclasses.dataclass(frozen=True)
class Log:
  """Loggers in addition to metrics.jsonl and TensorBoard; each needs its own pip extra."""

  wandb: str | None = None  # Weights & Biases project; WANDB_MODE=offline works without network
  mlflow: str | None = None  # MLflow experiment, at MLFLOW_TRACKING_URI or in WORKDIR/mlflow.db


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Checkpoints kept on disk."""

  keep: Count = 2  # newest checkpoints to keep, besides the best by validation top1 or mAP


@dataclasses.dataclass(frozen=True)
class Faults:
  """What a run does if it hangs, diverges or the disk is full."""

  hang_timeout_seconds: Seconds = 1800.0  # a longer step or evaluation batch ends the run
  heartbeat_timeout_seconds: Count = 60  # a host silent for longer counts as lost; the run ends
  max_consecutive_nonfinite: Count = 10  # steps in a row with non-finite loss or gradients
  on_disk_full: Literal['stop', 'continue'] = 'stop'  # continue: skip the save, keep training
