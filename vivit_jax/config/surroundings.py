# SPDX-License-Identifier: Apache-2.0
"""Settings of a run's surroundings: where its log goes, what it keeps, what it does in trouble."""

import dataclasses
from typing import Literal

from vivit_jax.config.augment import Count, Seconds


@dataclasses.dataclass(frozen=True)
class Log:
  """Where the log goes besides metrics.jsonl and TensorBoard; each needs its own extra."""

  wandb: str | None = None  # project of Weights & Biases; WANDB_MODE=offline needs no network
  mlflow: str | None = None  # experiment of MLflow, at MLFLOW_TRACKING_URI or in WORKDIR/mlflow.db


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Checkpoints kept on disk."""

  keep: Count = 2  # newest steps kept, beside the best by top1 or mAP of scheduled evaluations


@dataclasses.dataclass(frozen=True)
class Faults:
  """What a run does if it hangs, diverges or finds no disk space."""

  hang_timeout_seconds: Seconds = 1800.0  # a step or evaluation batch that takes longer ends it
  heartbeat_timeout_seconds: Count = 60  # a host silent for longer is lost, and the others end
  max_consecutive_nonfinite: Count = 10  # steps with a non-finite loss or gradient that end the run
  on_disk_full: Literal['stop', 'continue'] = 'stop'  # continue: train without the failed save
