# SPDX-License-Identifier: Apache-2.0
"""Uploads a trained model to the Hugging Face Hub: weights, model card and report in one commit."""

import contextlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vivit_jax.errors import CheckpointError, ConfigError, one_line
from vivit_jax.weights import export
from vivit_jax.weights.model_card import make_card
from vivit_jax.weights.pretrained import load_run

WEIGHTS, CARD = 'model.safetensors', 'README.md'
REPORT = 'report.json'


def push(
  workdir: Path,
  repository: str,
  *,
  private: bool = False,
  update: bool = False,
  license_id: str | None = None,
) -> str:
  """Uploads the best weights of a run, with a model card created from its report.

  All files are created and checked locally before the first request to the hub.

  Args:
    workdir: workdir of the run.
    repository: owner/name of the repository to create.
    private: whether only the owner can see it.
    update: whether to commit to an existing repository.
    license_id: license of the weights, by its name on the hub.

  Returns:
    The URL of the commit.

  Raises:
    ConfigError: the name is invalid, or a package or login is missing.
    CheckpointError: there is no run or no report of these weights, or the hub refuses.
  """
  if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', repository, re.ASCII):
    raise ConfigError(f'{repository!r} is not of the form owner/name')
  try:
    hub = importlib.import_module('huggingface_hub')
  except ImportError:
    raise ConfigError("push needs huggingface_hub: pip install 'vivit_jax[hub]'") from None
  pretrained = load_run(workdir)
  assert pretrained.config is not None
  pretrained.source.normalization()  # or it is no classifier
  report = _read_report(workdir, pretrained.step)
  if pretrained.source.labels is None:
    raise CheckpointError(f'{workdir} has no class names: evaluate it with its data first')
  if hub.get_token() is None:
    raise ConfigError('the hub needs a login: run `hf auth login` or set HF_TOKEN')
  with tempfile.TemporaryDirectory(prefix='vivit-push-') as name:
    folder = Path(name)
    export.write(pretrained.source, folder / WEIGHTS)
    card = make_card(repository, pretrained.config, report, license_id)
    (folder / CARD).write_text(card, encoding='utf-8')
    for file in (REPORT, 'report.html'):
      if (workdir / file).is_file():
        (folder / file).write_bytes((workdir / file).read_bytes())
    return _upload(hub, folder, repository, private, update)


def _read_report(workdir: Path, step: int | None) -> dict[str, Any]:
  """Returns the evaluation report of the weights at `step`; raises CheckpointError."""
  file, remedy = workdir / REPORT, f'run `vivit evaluate --workdir={workdir}`'
  try:
    report = json.loads(file.read_bytes())
    found = report['step']
    missing = [name for name in ('classes', 'tasks', 'views', 'split') if name not in report]
  except FileNotFoundError:
    raise CheckpointError(
      f'{workdir} has no {REPORT}, which the model card needs: {remedy}'
    ) from None
  except (ValueError, TypeError, KeyError) as error:
    raise CheckpointError(f'{file} is damaged ({error}): {remedy}') from None
  if missing:
    raise CheckpointError(f'{file} is of an earlier version (no {missing[0]!r}): {remedy}')
  if found != step:
    raise CheckpointError(f'{file} is about step {found}, but the best is step {step}: {remedy}')
  return report


def _upload(hub: Any, folder: Path, repository: str, private: bool, update: bool) -> str:
  api = hub.HfApi(endpoint=os.environ.get('HF_ENDPOINT') or None)
  with _one_line(repository, 'nothing was uploaded'):
    if not update and api.repo_exists(repository):
      raise CheckpointError(
        f'{repository} exists on the hub: give another name, or --update to commit to it'
      )
    api.create_repo(repository, private=private, exist_ok=update)
  with _one_line(repository, 'nothing was committed; after fixing this, also give --update'):
    done = api.upload_folder(
      repo_id=repository, folder_path=folder, commit_message='Model, card and report by vivit push'
    )
  return str(done.commit_url)


@contextlib.contextmanager
def _one_line(repository: str, state: str) -> Iterator[None]:
  """Converts any exception of the library to one line; their types vary between versions."""
  try:
    yield
  except CheckpointError:
    raise
  except Exception as error:
    cause = error.__cause__ if isinstance(error, RuntimeError) else None  # for a failed upload
    error = cause if isinstance(cause, Exception) else error
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = one_line(error, 200)
    if status in (401, 403):
      reason = f'the login was refused (HTTP {status}): run `hf auth login` with a write token'
    raise CheckpointError(f'{repository}: {reason}; {state}') from error
