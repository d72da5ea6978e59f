# SPDX-License-Identifier: Apache-2.0
"""Access to the Hugging Face Hub (huggingface_hub) and Google Cloud Storage (gcsfs)."""

import base64
import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vivit_jax.errors import CheckpointError, nearest
from vivit_jax.files import locked, replaced
from vivit_jax.weights.listing import INDEX, File, names_beside

CONNECT_SECONDS = 10  # to open a connection, or for the hub's answer about a file
READ_SECONDS = 30  # without a byte from Cloud Storage; the hub's is HF_HUB_DOWNLOAD_TIMEOUT
LIST_SECONDS = 20  # for Cloud Storage to list files, attempts included


class Hub:
  """A model repository of the Hugging Face Hub."""

  login = (
    'log in with `hf auth login` or set HF_TOKEN, accept the conditions on the page of the model '
    'if it has some, and check the spelling: the hub hides models that you may not access'
  )

  def __init__(self, address: str, rest: str):
    parts = re.fullmatch(r'([\w.-]+/[\w.-]+)(?:@(refs/pr/\d+|[^/@]+))?(?:/(.+?))?/?', rest)
    if not parts:
      raise CheckpointError(f'{address}: is not of the form hf://owner/name[@revision][/file]')
    try:
      hub = importlib.import_module('huggingface_hub')
    except ImportError:
      raise CheckpointError(
        f"{address}: needs huggingface_hub: pip install 'vivit_jax[hub]'"
      ) from None
    self.address = address
    self.repository, self.revision, self.path = parts[1], parts[2] or 'main', parts[3] or ''
    self.endpoint = os.environ.get('HF_ENDPOINT', '')
    self.api = hub.HfApi(endpoint=self.endpoint or None)
    words = ['hf', 'download', self.repository, self.path, '--revision', self.revision]
    self.by_hand = ' '.join(filter(None, words))
    self.commit = ''

  def find(self) -> dict[str, File]:
    """Returns all files of the repository."""
    about = self.api.model_info(
      self.repository, revision=self.revision, files_metadata=True, timeout=CONNECT_SECONDS
    )
    self.commit = about.sha
    return {
      file.rfilename: File(int(file.size), file.lfs.sha256 if file.lfs else '')
      for file in about.siblings or ()
    }

  def fetch(self, files: Mapping[str, File], folder: Path) -> Path:
    """Downloads into the hub's own cache, ignoring `folder`; returns the root of the names."""
    root = Path()
    for name in files:
      path = self.api.hf_hub_download(
        self.repository, name, revision=self.commit, etag_timeout=CONNECT_SECONDS
      )
      root = Path(path).parents[name.count('/')]
    return root

  def status(self, error: Exception) -> int | None:
    """Returns the HTTP status of an exception, or None."""
    return getattr(getattr(error, 'response', None), 'status_code', None)

  def nearest(self, error: Exception) -> str:
    """Returns what is missing and the nearest name, if the hub says so."""
    with contextlib.suppress(Exception):
      if type(error).__name__ == 'RevisionNotFoundError':
        refs = self.api.list_repo_refs(self.repository)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f': no revision {self.revision}{nearest(self.revision, names)}'
      if type(error).__name__ == 'RepositoryNotFoundError':
        models = self.api.list_models(author=self.repository.split('/')[0], limit=200)
        return nearest(self.repository, [model.id for model in models])
    return ''


class Bucket:
  """A file or a folder of Google Cloud Storage."""

  login = 'run `gcloud auth application-default login` with an account that may read the bucket'

  def __init__(self, address: str, rest: str):
    parts = re.fullmatch(r'([a-z0-9][\w.-]+)/(.+?)/?', rest)
    if not parts:
      raise CheckpointError(f'{address}: is not of the form gs://bucket/path')
    self.address, self.bucket, self.path = address, parts[1], parts[2]
    self.endpoint = os.environ.get('STORAGE_EMULATOR_HOST', '')
    self.by_hand = f'gcloud storage cp -r {address} .'
    # Published weights are public, so credentials, which may have expired, are used only if needed.
    self.files = self._client('anon')

  def _client(self, token: str | None) -> Any:
    try:
      import aiohttp
      import google_crc32c  # noqa: F401
      from gcsfs.core import GCSFileSystem  # gcsfs.GCSFileSystem may query the bucket first
    except ImportError:
      raise CheckpointError(
        f"{self.address}: needs gcsfs and google-crc32c: pip install 'vivit_jax[hub]'"
      ) from None

    # gcsfs logs a traceback for every exception before raising it.
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
    timeout = aiohttp.ClientTimeout(None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return GCSFileSystem(
      token=token, requests_timeout=timeout, use_listings_cache=False, skip_instance_cache=True
    )

  def find(self) -> dict[str, File]:
    """Returns the file with its config files, or all files of the folder."""
    try:
      found = self._find()
    except Exception as error:
      if self.status(error) not in (401, 403):
        raise
      self.files = self._client(None)  # with the user's credentials
      found = self._find()
    return {
      about['name'].removeprefix(f'{self.bucket}/'): File(
        about['size'], about.get('crc32c', ''), int(about['generation'])
      )
      for about in found
      if not about['name'].endswith('/')  # folder markers
    }

  def _find(self) -> list[dict[str, Any]]:
    path = f'{self.bucket}/{self.path}'
    about = self.files.info(path, timeout=LIST_SECONDS)
    if about['type'] == 'directory':
      return list(self.files.find(path, detail=True, timeout=LIST_SECONDS).values())
    found = [about]
    for name in sorted(names_beside(path) - {path}):
      try:
        found.append(self.files.info(name, timeout=LIST_SECONDS))
      except Exception as error:
        # Without permission to list, a missing file is also reported as forbidden.
        if self.status(error) not in (401, 403, 404):
          raise
    if path.endswith(INDEX):
      folder, _, stem = path.removesuffix(INDEX).rpartition('/')
      shards = self.files.find(folder, prefix=stem, detail=True, timeout=LIST_SECONDS)
      found += [about for name, about in shards.items() if name != path]
    return [about for about in found if about['type'] == 'file']

  def fetch(self, files: Mapping[str, File], folder: Path) -> Path:
    """Downloads missing files into the folder; returns the root of the names."""
    from fsspec.callbacks import TqdmCallback

    versions = [(name, file.size, file.generation) for name, file in files.items()]
    root = folder / hashlib.sha256(json.dumps(versions).encode()).hexdigest()[:16]
    root.mkdir(parents=True, exist_ok=True)
    with locked(folder / 'lock', self.address, wait=True):
      for name, file in files.items():
        target = root / name
        if target.is_file() and target.stat().st_size == file.size:
          continue
        target.parent.mkdir(parents=True, exist_ok=True)
        bar = {'desc': target.name, 'unit': 'B', 'unit_scale': True, 'disable': None}
        with replaced(target) as part:
          self.files.get_file(
            f'{self.bucket}/{name}', str(part), callback=TqdmCallback(bar),
            generation=file.generation,
          )  # fmt: skip
          self._check(name, part, file)
    return root

  def _check(self, name: str, part: Path, file: File) -> None:
    import google_crc32c

    digest = google_crc32c.Checksum()
    with part.open('rb') as content:
      for _ in digest.consume(content, 2**20):
        pass
    found = base64.b64encode(digest.digest()).decode()
    size = part.stat().st_size
    if size != file.size or file.digest not in ('', found):
      raise CheckpointError(
        f'{self.address}: {name} was received with {size} bytes and CRC32C {found}, instead '
        f'of {file.size} and {file.digest}: the file was deleted, try again'
      )

  def status(self, error: Exception) -> int | None:
    """Returns the HTTP status of an exception, or None."""
    if isinstance(error, OSError) and error.errno is None:
      if isinstance(error, FileNotFoundError):
        return 404
      if str(error).startswith('Forbidden'):
        return 403
    code = str(getattr(error, 'code', None))
    return int(code) if code.isdecimal() else None

  def nearest(self, error: Exception) -> str:
    """Returns the nearest name in the deepest folder of the path that exists."""
    path = PurePosixPath(self.bucket, self.path)
    for name, folder in zip((path, *path.parents), path.parents, strict=False):
      try:
        if folder.name:
          there = self.files.ls(str(folder), timeout=LIST_SECONDS)
          return nearest(name.name, [PurePosixPath(other).name for other in there])
      except FileNotFoundError:
        continue
      except Exception:  # it is only a hint
        return ''
    return f': no bucket {self.bucket}'
