# SPDX-License-Identifier: Apache-2.0
"""Model repositories of the Hugging Face Hub, in the hub's own cache."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vivit_jax.weights.listing import File, Listing, make_listing, near
from vivit_jax.weights.remote import CONNECT_SECONDS, Store, attempt, check_arrived


class Hub(Store):
  """A model repository of the Hugging Face Hub, in the hub's own cache."""

  library = 'huggingface_hub'
  broken = 'whole files are kept, so try again'
  login = (
    'log in with `hf auth login` or set HF_TOKEN, accept the conditions on the page of the model '
    'where it has some, and check the spelling: the hub hides what you may not see'
  )

  def __init__(self, address: str, rest: str, progress: bool):
    super().__init__(address, progress)
    parts = re.fullmatch(r'([\w.-]+/[\w.-]+)(?:@(refs/pr/\d+|[^/@]+))?(?:/(.+?))?/?', rest)
    if not parts:
      self.fail('is not of the form hf://owner/name[@revision][/file]')
    self.repository, self.revision, self.path = parts[1], parts[2] or 'main', parts[3] or ''
    hub = self.load('huggingface_hub')
    self.endpoint = os.environ.get('HF_ENDPOINT', '')
    self.api = hub.HfApi(endpoint=self.endpoint or None)
    self.by_hand = ' '.join(
      ['hf', 'download', self.repository, self.path, '--revision', self.revision]
    ).replace('  ', ' ')

  def find(self) -> Listing:
    """Returns what the hub announces; raises CheckpointError."""
    with self.telling():
      about = attempt(
        lambda: self.api.model_info(
          self.repository, revision=self.revision, files_metadata=True, timeout=CONNECT_SECONDS
        )
      )
      found = {}
      for file in about.siblings or ():
        digest = f'sha256:{file.lfs.sha256}' if file.lfs else f'git:{file.blob_id}'
        found[file.rfilename] = File(file.rfilename, file.size, digest)
      return make_listing(self.address, about.sha, found, self.path)

  def download(self, listing: Listing, folder: Path) -> Path:
    """Fetches into the hub's own cache, not the folder; returns the root of the files' names."""
    root = Path()
    for file in listing.files:
      with self.telling(f'the download of {file.name}'), self._bars():
        fetch = functools.partial(
          self.api.hf_hub_download, self.repository, file.name, revision=listing.version,
          etag_timeout=CONNECT_SECONDS,
        )  # fmt: skip
        path = Path(attempt(fetch))  # not every version of the library goes on by itself
      check_arrived(self.address, path, file)
      root = path.parents[file.name.count('/')]
    return root

  def nearest(self, error: Exception) -> str:
    with contextlib.suppress(Exception):
      if type(error).__name__ == 'RevisionNotFoundError':
        refs = self.api.list_repo_refs(self.repository)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f': no revision {self.revision}{near(self.revision, names)}'
      if type(error).__name__ == 'RepositoryNotFoundError':
        models = self.api.list_models(author=self.repository.split('/')[0], limit=200)
        return near(self.repository, [model.id for model in models])
    return ''

  @contextlib.contextmanager
  def _bars(self) -> Iterator[None]:
    utils = self.load('huggingface_hub.utils')
    if self.progress or utils.are_progress_bars_disabled():
      yield
      return
    utils.disable_progress_bars()
    try:
      yield
    finally:
      utils.enable_progress_bars()
