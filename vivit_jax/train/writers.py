# SPDX-License-Identifier: Apache-2.0
"""Loggers besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow."""

import importlib
import importlib.util
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flax.traverse_util import flatten_dict
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from vivit_jax.config.parse import to_dict
from vivit_jax.config.schema import Config
from vivit_jax.errors import ConfigError, one_line
from vivit_jax.files import naming, write_json

MLFLOW_BATCH = 100  # parameters per request to MLflow
RUNS = 'trackers.json'  # in the workdir: the trackers' ids of this run


@runtime_checkable
class Writer(Protocol):
  """Writes the metrics of a run."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of a step, by tag; they may be NaN or infinite."""

  def close(self, failed: bool) -> None:
    """Ends the session; `failed` if the run did not finish."""


class EventWriter:
  """Writes one TensorBoard event file; raises OSError if it cannot be written.

  tensorboardX's own writer is a thread. If the disk is full, that thread ends and the run would
  wait for it forever.
  """

  def __init__(self, folder: Path, first_step: int):
    """Opens a new file; its steps from `first_step` on replace those of earlier files."""
    folder.mkdir(parents=True, exist_ok=True)
    self._folder = folder
    with naming(folder):
      self._writer = EventsWriter(str(folder / 'events'))
      restart = SessionLog(status=SessionLog.START)
      self._writer.write_event(Event(step=first_step, session_log=restart))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes values of a step, by tag."""
    with naming(self._folder):
      for tag, value in values.items():
        self._writer.write_event(
          Event(wall_time=time.time(), step=step, summary=scalar(tag, value))
        )
      self._writer.flush()

  def close(self, failed: bool) -> None:
    """Closes the file."""
    del failed
    with naming(self._folder):
      self._writer.close()


class WandbWriter:
  """A run of Weights & Biases; its environment variables (WANDB_MODE, WANDB_ENTITY) apply."""

  def __init__(self, project: str, workdir: Path, config: Config, own: dict[str, str]):
    """Begins a run, or continues that of `own`."""
    wandb = importlib.import_module('wandb')
    self._run = wandb.init(
      project=project,
      id=own.setdefault('id', secrets.token_hex(4)),
      name=workdir.resolve().name,
      dir=str(workdir),
      config=to_dict(config),
      resume='allow',
      settings=wandb.Settings(console='off', silent=True),
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes the values of a step; W&B ignores steps written before a resumption."""
    self._run.log(dict(values), step=step)

  def close(self, failed: bool) -> None:
    """Sends the remaining data."""
    self._run.finish(exit_code=int(failed))


class MlflowWriter:
  """A run of MLflow, at MLFLOW_TRACKING_URI or in a database in the workdir."""

  def __init__(self, experiment: str, workdir: Path, config: Config, own: dict[str, str]):
    """Begins a run, or continues that of `own`."""
    for name in ('mlflow', 'alembic'):
      logging.getLogger(name).setLevel(logging.ERROR)
    mlflow = importlib.import_module('mlflow')
    self._metric = mlflow.entities.Metric
    place = f'sqlite:///{workdir.resolve()}/mlflow.db'
    self._client = mlflow.MlflowClient(os.environ.get('MLFLOW_TRACKING_URI', place))
    if 'id' not in own:
      found = self._client.get_experiment_by_name(experiment)
      number = found.experiment_id if found else self._client.create_experiment(experiment)
      run = self._client.create_run(number, run_name=workdir.resolve().name)
      own['id'] = run.info.run_id
      settings = flatten_dict(to_dict(config), sep='.').items()
      params = [mlflow.entities.Param(name, str(value)) for name, value in settings]
      for at in range(0, len(params), MLFLOW_BATCH):
        self._client.log_batch(own['id'], params=params[at : at + MLFLOW_BATCH])
    self._id = own['id']
    self._client.update_run(self._id, status='RUNNING')

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes values of a step, by tag."""
    now = int(1000 * time.time())
    metrics = [self._metric(tag, float(value), now, step) for tag, value in values.items()]
    self._client.log_batch(self._id, metrics=metrics)

  def close(self, failed: bool) -> None:
    """Marks the run as ended."""
    self._client.set_terminated(self._id, 'KILLED' if failed else 'FINISHED')


class Tracker:
  """Wraps a writer to a service: failures print one warning and do not end the run."""

  def __init__(self, name: str, writer: Writer):
    self._name = name
    self._writer: Writer | None = writer

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes values of a step, by tag."""
    self._try(lambda writer: writer.write(step, values))

  def close(self, failed: bool) -> None:
    """Ends the session."""
    self._try(lambda writer: writer.close(failed))

  def _try(self, do: Callable[[Writer], None]) -> None:
    if self._writer is None:
      return
    try:
      do(self._writer)
    except Exception as error:
      self._writer = None
      print(
        f'vivit: warning: {self._name} receives no more of this run ({one_line(error, 300)}); '
        'metrics.jsonl has all metrics',
        file=sys.stderr,
        flush=True,
      )


TRACKERS: dict[str, tuple[str, tuple[str, ...], Any]] = {  # setting: title, packages, writer
  'wandb': ('Weights & Biases', ('wandb',), WandbWriter),
  'mlflow': ('MLflow', ('mlflow', 'sqlalchemy', 'alembic'), MlflowWriter),
}


def check_installed(config: Config) -> None:
  """Raises ConfigError if the package of a configured tracker is not installed."""
  for setting, (title, packages, _) in TRACKERS.items():
    place = getattr(config.log, setting)
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if place is not None and missing:
      raise ConfigError(
        f'config.log.{setting}={place!r}: {title} needs {", ".join(missing)}: '
        f'pip install "vivit_jax[{setting}]"'
      )


def open_trackers(config: Config, workdir: Path) -> list[Writer]:
  """Returns the configured writers; a resumed run continues its tracker runs.

  Raises:
    ConfigError: a service rejects the run.
  """
  file = workdir / RUNS
  own: dict[str, dict[str, str]] = json.loads(file.read_text()) if file.exists() else {}
  writers: list[Writer] = []
  for setting, (title, _, kind) in TRACKERS.items():
    place = getattr(config.log, setting)
    if place is None:
      continue
    try:
      writer = kind(place, workdir, config, own.setdefault(f'{setting}/{place}', {}))
    except Exception as error:  # any exception type of the service's library
      raise ConfigError(
        f'config.log.{setting}={place!r}: {title} rejects the run: {one_line(error, 300)}; '
        f'give --config.log.{setting}=None to train without it, or delete {file} for a new one'
      ) from error
    writers.append(Tracker(title, writer))
  if writers:
    write_json(file, own)
  return writers
