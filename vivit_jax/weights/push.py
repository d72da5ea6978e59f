# SPDX-License-Identifier: Apache-2.0
"""Puts a trained model on the Hugging Face Hub: weights, model card and report, in one commit."""

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
  """Uploads the best weights of a run with the card made from its report.

  Everything is made, and checked, on this machine before the hub is asked for anything.

  Args:
    workdir: of the run.
    repository: owner/name; made by this.
    private: only its owner sees it.
    update: commit to a repository that exists.
    license_id: of the weights, as the hub names licenses.

  Returns:
    The address of the commit.

  Raises:
    ConfigError: a name, package or login that is missing.
    CheckpointError: no run, no report of these weights, or the hub refuses.
  """
  if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', repository, re.ASCII):
    raise ConfigError(f'{repository!r} is not of the form owner/name')
  try:
    hub = importlib.import_module('huggingface_hub')
  except ImportError:
    raise ConfigError("push needs huggingface_hub: pip install 'vivit_jax[hub]'") from None
  pretrained = load_run(workdir)
  assert pretrained.config is not None
  report = _read_report(workdir, pretrained.step)
  if pretrained.source.labels is None:
    raise CheckpointError(f'{workdir} has no class names: evaluate it with its data first')
  if hub.get_token() is None:
    raise ConfigError('the hub wants a login: run `hf auth login`, or set HF_TOKEN')
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
  """Returns the report of these weights; raises CheckpointError."""
  file, remedy = workdir / REPORT, f'run `vivit evaluate --workdir={workdir}`'
  try:
    report = json.loads(file.read_bytes())
    found = report['step']
    missing = [name for name in ('classes', 'tasks', 'views', 'split') if name not in report]
  except FileNotFoundError:
    raise CheckpointError(
      f'{workdir} has no {REPORT}, of which the model card is made: {remedy}'
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
  with _one_line(repository, 'no commit was made; once that is mended, give --update too'):
    done = api.upload_folder(
      repo_id=repository, folder_path=folder, commit_message='Model, card and report by vivit push'
    )
  return str(done.commit_url)


@contextlib.contextmanager
def _one_line(repository: str, state: str) -> Iterator[None]:
  """Turns any error of the library into one line; their types differ from version to version."""
  try:
    yield
  except CheckpointError:
    raise
  except Exception as error:
    cause = error.__cause__ if isinstance(error, RuntimeError) else None  # of a failed upload
    error = cause if isinstance(cause, Exception) else error
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    reason = one_line(error, 200)
    if status in (401, 403):
      reason = (
        f'the login was refused (HTTP {status}): run `hf auth login` with a token that may write'
      )
    raise CheckpointError(f'{repository}: {reason}; {state}') from error
