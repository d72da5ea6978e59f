# SPDX-License-Identifier: Apache-2.0
"""Files and folders of Google Cloud Storage, fetched in pieces that outlast an interruption."""

import base64
import dataclasses
import functools
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from vivit_jax.weights.listing import (
  INDEX,
  MAX_FILES,
  File,
  Listing,
  make_listing,
  names_beside,
  near,
)
from vivit_jax.weights.remote import (
  CONNECT_SECONDS,
  Store,
  attempt,
  check_arrived,
  http_status,
  is_login,
  locked,
  short,
)

READ_SECONDS = 30  # without a byte from Cloud Storage; the hub's is HF_HUB_DOWNLOAD_TIMEOUT
PIECE = 8 * 2**20  # bytes asked for at once: what an interruption can cost


class Bucket(Store):
  """A file or folder of Google Cloud Storage."""

  library = 'google-cloud-storage'
  broken = 'what arrived is kept, so try again'
  login = 'run `gcloud auth application-default login` with an account that may read the bucket'

  def __init__(self, address: str, rest: str, progress: bool):
    super().__init__(address, progress)
    parts = re.fullmatch(r'([a-z0-9][\w.-]+)/(.+?)/?', rest)
    if not parts:
      self.fail('is not of the form gs://bucket/path')
    self.bucket, self.path = parts[1], parts[2]
    self.storage = self.load('google.cloud.storage')
    self.endpoint = os.environ.get('STORAGE_EMULATOR_HOST', '')
    self.by_hand = f'gcloud storage cp -r {address} .'
    self.blobs: dict[str, Any] = {}
    # Published weights are public: credentials, which may be stale, are asked for only if needed.
    self.client = self.storage.Client.create_anonymous_client()

  def find(self) -> Listing:
    """Returns what Cloud Storage announces; raises CheckpointError."""
    with self.telling():
      try:
        found = self._find()
      except Exception as error:
        if http_status(error) not in (401, 403) and not is_login(error):
          raise
        self.client = self.storage.Client(project=None)
        found = self._find()
      for blob in found:
        self.blobs[blob.name] = blob
      files = {blob.name: _announced(blob) for blob in found}
      listing = make_listing(self.address, '', files, self.path)
      versions = [(f.name, f.size, self.blobs[f.name].generation) for f in listing.files]
      return dataclasses.replace(listing, version=short(json.dumps(versions)))

  def nearest(self, error: Exception) -> str:
    return f': no bucket {self.bucket}' if http_status(error) == 404 else ''

  def _find(self) -> list[Any]:
    """Returns a file with what lies beside it, or all files of a folder."""
    if main := self._get(self.path):
      names = names_beside(self.path) - {self.path}
      beside = [b for name in sorted(names) if (b := self._get(name, optional=True))]
      shards = self._under(self.path.removesuffix(INDEX)) if self.path.endswith(INDEX) else []
      return [main, *beside, *(b for b in shards if b.name != self.path)]
    if found := self._under(f'{self.path}/'):
      return found
    parent = self.path.rpartition('/')[0]
    pages = self._under(f'{parent}/' if parent else '', delimiter='/')
    return self.fail(f'does not exist{near(self.path, [blob.name for blob in pages])}')

  def _get(self, name: str, optional: bool = False) -> Any:
    bucket = self.client.bucket(self.bucket)
    try:
      return attempt(lambda: bucket.get_blob(name, timeout=CONNECT_SECONDS, retry=None))
    except Exception as error:
      # Where listing is forbidden, a file that does not exist is forbidden too.
      if optional and http_status(error) == 403:
        return None
      raise

  def _under(self, prefix: str, delimiter: str | None = None) -> list[Any]:
    def pages() -> list[Any]:
      found = self.client.list_blobs(
        self.bucket, prefix=prefix, delimiter=delimiter, max_results=MAX_FILES + 1,
        timeout=CONNECT_SECONDS, retry=None,
      )  # fmt: skip
      return [blob for blob in found if not blob.name.endswith('/')]  # consoles' folder marks

    return attempt(pages)

  def download(self, listing: Listing, folder: Path) -> Path:
    """Fetches what is missing in the folder and returns the root of the files' names."""
    root = folder / listing.version
    root.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in listing.files)
    bar = tqdm(
      total=total, unit='B', unit_scale=True, unit_divisor=1024, disable=not self.progress,
      desc=PurePosixPath(self.path).name,
    )  # fmt: skip
    with locked(folder / 'lock', self.address), bar:
      for file in listing.files:
        target = root / file.name
        if target.is_file() and target.stat().st_size == file.size:
          bar.update(file.size)
          continue
        part = target.with_name(f'{target.name}.part')
        part.parent.mkdir(parents=True, exist_ok=True)
        with self.telling(f'the download of {file.name}'):
          self._fill(part, file, bar)
        check_arrived(self.address, part, file)
        part.rename(target)
    return root

  def _fill(self, part: Path, file: File, bar: Any) -> None:
    """Goes on where an earlier call stopped; the generation makes sure that it is the same file."""
    blob = self.blobs[file.name]
    with part.open('ab') as out:
      if out.tell() > file.size:
        out.truncate(0)
      bar.update(out.tell())
      while (start := out.tell()) < file.size:
        end = min(start + PIECE, file.size) - 1
        piece = attempt(
          functools.partial(
            blob.download_as_bytes, start=start, end=end, raw_download=True, checksum=None,
            if_generation_match=blob.generation, timeout=(CONNECT_SECONDS, READ_SECONDS),
            retry=None,
          )
        )  # fmt: skip
        if len(piece) != end - start + 1:
          raise EOFError(f'{len(piece)} bytes came for {end - start + 1}')
        out.write(piece)
        bar.update(len(piece))


def _announced(blob: Any) -> File:
  digest = blob.md5_hash and f'md5:{base64.b64decode(blob.md5_hash).hex()}'
  if not digest and blob.crc32c:  # files put together from parts have no MD5
    digest = f'crc32c:{base64.b64decode(blob.crc32c).hex()}'
  return File(blob.name, blob.size, digest or '')
