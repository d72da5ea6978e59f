# SPDX-License-Identifier: Apache-2.0
"""Fetches checkpoints from hf:// and gs:// into a cache: whole, checked, and only once."""

import base64
import contextlib
import dataclasses
import difflib
import errno
import fcntl
import functools
import hashlib
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm

from vivit_jax.convert.errors import SAFE_CONVERSION
from vivit_jax.errors import CheckpointError

CONNECT_SECONDS = 10  # to open a connection, or for the hub to answer about a file
READ_SECONDS = 30  # without a byte from Cloud Storage; the hub's is HF_HUB_DOWNLOAD_TIMEOUT
PAUSES = (0.5, 2.0)  # seconds before the second and the third attempt
PIECE = 8 * 2**20  # bytes asked for at once: what an interruption can cost
MAX_BYTES = 16 * 2**30  # of all files together, as in convert
MAX_FILES = 10_000

WEIGHTS = ('.safetensors', '.npz', '.msgpack')
PICKLED = ('.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt')
INDEX = '.safetensors.index.json'
BESIDE = ('config.json', 'preprocessor_config.json')  # what the tensors of a file cannot tell
ORBAX = ('_CHECKPOINT_METADATA', 'manifest.ocdbt')  # a folder with one of these is needed whole
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)
BUSY = (408, 429, 500, 502, 503, 504)  # answers that another attempt may better

T = TypeVar('T')


def localise(path: str | Path, sha256: str | None = None, progress: bool | None = None) -> Path:
  """Returns where a checkpoint lies on this machine, after fetching it where it is remote.

  Hub files go to the hub's own cache, Cloud Storage's to $VIVIT_CACHE (~/.cache/vivit_jax/remote).
  What is there in the version that the server announces is not fetched again; without network the
  last whole copy is taken, with a line on stderr.

  Args:
    path: a local path, hf://owner/name[@revision][/file or folder] or gs://bucket/file or folder.
    sha256: hexadecimal digest that the file must have.
    progress: whether to show rate and remaining time on stderr; None where that is a terminal.

  Raises:
    CheckpointError: one line with the address, what happened and the remedy.
  """
  address = re.sub(r'^(hf|gs):/(?=[^/])', r'\1://', str(path))  # pathlib drops one slash
  scheme, remote, rest = address.partition('://')
  if not remote:
    return _expected(Path(path), address, sha256)
  if scheme not in STORES:
    raise CheckpointError(
      f'{address}: only hf://owner/name[@revision][/file] and gs://bucket/path are fetched; '
      'download it by hand and give the local path'
    )
  store = STORES[scheme](address, rest, sys.stderr.isatty() if progress is None else progress)
  key = f'{re.sub(r"[^A-Za-z0-9.-]+", "_", address)[-60:]}-{_short(store.endpoint + address)}'
  record = _cache() / f'{key}.json'
  kept = _read(record)
  try:
    listing = store.find()
  except _UnreachableError as error:
    if kept is None:
      raise
    print(f'{error.what}: its copy in the cache is used', file=sys.stderr)
    return _expected(kept.result, address, sha256)
  known = next((f.digest for f in listing.files if f.name == listing.main), '')
  if sha256 and known.startswith('sha256:') and known != f'sha256:{sha256.lower()}':
    raise CheckpointError(
      f'{address}: has SHA-256 {known[7:]}, expected {sha256}: it is not the file you mean'
    )
  if kept is None or kept.listing != listing:
    with store.telling():
      kept = _Kept(str(store.download(listing, _cache() / key)), listing)
      _write(record, json.dumps(dataclasses.asdict(kept)))
  return _expected(kept.result, address, sha256)


@dataclasses.dataclass(frozen=True)
class _File:
  name: str  # in the repository or bucket
  size: int
  digest: str  # 'algorithm:hexadecimal', or '' where the server tells none


@dataclasses.dataclass(frozen=True)
class _Listing:
  """What belongs to an address: the files in one version, and which of them is to be opened."""

  version: str
  main: str  # a file, a folder, or '' for all of a repository
  files: tuple[_File, ...]


@dataclasses.dataclass(frozen=True)
class _Kept:
  """What the cache holds whole: written after the last file was checked, so it never lies."""

  root: str
  listing: _Listing

  @property
  def result(self) -> Path:
    return Path(self.root, self.listing.main)

  def whole(self) -> bool:
    files = ((Path(self.root, file.name), file.size) for file in self.listing.files)
    return all(path.is_file() and path.stat().st_size == size for path, size in files)


class _UnreachableError(CheckpointError):
  """No answer from the server; a copy in the cache may do."""

  def __init__(self, what: str, remedy: str):
    self.what = what
    super().__init__(f'{what}{remedy}')


class _Store:
  """One address at one service."""

  endpoint = ''
  library = login = by_hand = broken = ''

  def __init__(self, address: str, progress: bool):
    self.address = address
    self.progress = progress

  def fail(self, reason: str) -> NoReturn:
    raise CheckpointError(f'{self.address}: {" ".join(reason.split())}')

  def load(self, module: str) -> Any:
    try:
      return importlib.import_module(module)
    except ImportError:
      self.fail(f"needs {self.library}: pip install 'vivit_jax[hub]'")

  @contextlib.contextmanager
  def telling(self, doing: str = '') -> Iterator[None]:
    """Turns whatever a library raises into one line: its types differ from version to version."""
    try:
      yield
    except CheckpointError:
      raise
    except Exception as error:
      status = _status(error)
      reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
      if status in (401, 403):
        self.fail(f'access was refused (HTTP {status}): {self.login}{self.nearest(error)}')
      if status == 404:
        self.fail(f'does not exist (HTTP 404){self.nearest(error)}')
      if _is_login(error):
        self.fail(f'is not public, and there are no good credentials ({reason}): {self.login}')
      if isinstance(error, OSError) and error.errno in DISK:
        self.fail(f'the cache cannot be written: {error}; set VIVIT_CACHE or HF_HOME elsewhere')
      strange = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
      happened = 'gives an answer that makes no sense' if strange else 'cannot be reached'
      happened = f'{doing} broke off' if doing else happened
      kept = self.broken if doing else 'try again when there is a network'
      remedy = f'; {kept}, or fetch it by hand (`{self.by_hand}`) and give the local path'
      raise _UnreachableError(f'{self.address}: {happened} ({reason})', remedy) from error

  def nearest(self, error: Exception) -> str:
    """Returns '; nearest: ...', as far as the service tells."""
    return ''

  def choose(self, names: Iterable[str], path: str) -> tuple[list[str], str]:
    """Returns which files a checkpoint needs and what is to be opened, or says what is wrong."""
    names = sorted(names)
    if path in names:
      if path.endswith(PICKLED):
        self.fail(f'holds pickled weights. {SAFE_CONVERSION}')
      folder = PurePosixPath(path).parent
      beside = {_side_car(path), *(str(folder / name) for name in BESIDE)}
      shards = path.removesuffix(INDEX) if path.endswith(INDEX) else None
      return [n for n in names if n == path or n in beside or _is_shard(n, shards)], path
    start = f'{path}/' if path else ''
    below = [n for n in names if n.startswith(start)]
    here = [n for n in below if '/' not in n.removeprefix(start)]
    if not below:
      self.fail(f'{path} does not exist there{_near(path, names)}')
    texts = [n for n in here if n.endswith('.json')]
    if f'{start}model.safetensors' in here:
      texts = [n for n in texts if not n.endswith(INDEX)]
      return [*texts, f'{start}model.safetensors'], path
    if f'{start}model{INDEX}' in here:
      return [*texts, *(n for n in here if _is_shard(n, f'{start}model'))], path
    if any(PurePosixPath(n).name in ORBAX for n in below):
      return below, path
    weights = [n for n in here if n.endswith(WEIGHTS) or re.search(r'(^|/)checkpoint(_\d+)?$', n)]
    if len(weights) == 1:
      return [*texts, *weights], weights[0]
    if weights:
      return self.fail(f'holds several checkpoints, name one: {_some(weights)}')
    pickled = [n for n in here if n.endswith(PICKLED)]
    if pickled:
      self.fail(f'holds only pickled weights: {_some(pickled)}. {SAFE_CONVERSION}')
    return self.fail(f'holds no weights ({", ".join(WEIGHTS)}); there are {_some(below)}')

  def listing(self, version: str, found: dict[str, _File], path: str) -> _Listing:
    chosen, main = self.choose(found, path)
    files = sorted((found[name] for name in chosen), key=lambda file: (file.size, file.name))
    for name in (file.name for file in files):
      if {'', '.', '..'} & set(name.split('/')) or '\\' in name or '\0' in name:
        self.fail(f'has a file with an unsafe name: {name[:80]!r}')
    size = sum(file.size for file in files)
    if size > MAX_BYTES or len(files) > MAX_FILES:
      self.fail(f'takes {size} bytes in {len(files)} files: at most {MAX_BYTES} and {MAX_FILES}')
    return _Listing(version, main, tuple(files))

  def check(self, path: Path, file: _File) -> None:
    """Deletes a file that is not what the server announced.

    Raises:
      CheckpointError: where it was.
    """
    size = path.stat().st_size
    algorithm, _, digest = file.digest.partition(':')
    found = _digest(path, algorithm) if algorithm else ''
    if size == file.size and found == digest:
      return
    for wrong in {path.resolve(), path}:
      wrong.unlink(missing_ok=True)
    told = f'{file.size} bytes with {algorithm} {digest}'.removesuffix(' with  ')
    self.fail(
      f'{file.name} arrived as {size} bytes with {algorithm} {found}, announced were {told}: the '
      'file is deleted, try again'
    )


class _Hub(_Store):
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

  def find(self) -> _Listing:
    with self.telling():
      about = _attempts(
        lambda: self.api.model_info(
          self.repository, revision=self.revision, files_metadata=True, timeout=CONNECT_SECONDS
        )
      )
      found = {}
      for file in about.siblings or ():
        digest = f'sha256:{file.lfs.sha256}' if file.lfs else f'git:{file.blob_id}'
        found[file.rfilename] = _File(file.rfilename, file.size, digest)
      return self.listing(about.sha, found, self.path)

  def download(self, listing: _Listing, folder: Path) -> Path:
    root = Path()
    for file in listing.files:
      with self.telling(f'the download of {file.name}'), self._bars():
        fetch = functools.partial(
          self.api.hf_hub_download, self.repository, file.name, revision=listing.version,
          etag_timeout=CONNECT_SECONDS,
        )  # fmt: skip
        path = Path(_attempts(fetch))  # not every version of the library goes on by itself
      self.check(path, file)
      root = path.parents[file.name.count('/')]
    return root

  def nearest(self, error: Exception) -> str:
    with contextlib.suppress(Exception):
      if type(error).__name__ == 'RevisionNotFoundError':
        refs = self.api.list_repo_refs(self.repository)
        names = [ref.name for ref in (*refs.branches, *refs.tags)]
        return f': no revision {self.revision}{_near(self.revision, names)}'
      if type(error).__name__ == 'RepositoryNotFoundError':
        models = self.api.list_models(author=self.repository.split('/')[0], limit=200)
        return _near(self.repository, [model.id for model in models])
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


class _Bucket(_Store):
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

  def find(self) -> _Listing:
    with self.telling():
      try:
        found = self._find()
      except Exception as error:
        if _status(error) not in (401, 403) and not _is_login(error):
          raise
        self.client = self.storage.Client(project=None)
        found = self._find()
      for blob in found:
        self.blobs[blob.name] = blob
      listing = self.listing('', {blob.name: self._file(blob) for blob in found}, self.path)
      versions = [(f.name, f.size, self.blobs[f.name].generation) for f in listing.files]
      return dataclasses.replace(listing, version=_short(json.dumps(versions)))

  def nearest(self, error: Exception) -> str:
    return f': no bucket {self.bucket}' if _status(error) == 404 else ''

  def _find(self) -> list[Any]:
    """Returns a file with what lies beside it, or all files of a folder."""
    if main := self._get(self.path):
      folder = PurePosixPath(self.path).parent
      names = {_side_car(self.path), *(str(folder / name) for name in BESIDE)} - {self.path}
      beside = [b for name in sorted(names) if (b := self._get(name, optional=True))]
      shards = self._under(self.path.removesuffix(INDEX)) if self.path.endswith(INDEX) else []
      return [main, *beside, *(b for b in shards if b.name != self.path)]
    if found := self._under(f'{self.path}/'):
      return found
    parent = self.path.rpartition('/')[0]
    pages = self._under(f'{parent}/' if parent else '', delimiter='/')
    return self.fail(f'does not exist{_near(self.path, [blob.name for blob in pages])}')

  def _get(self, name: str, optional: bool = False) -> Any:
    bucket = self.client.bucket(self.bucket)
    try:
      return _attempts(lambda: bucket.get_blob(name, timeout=CONNECT_SECONDS, retry=None))
    except Exception as error:
      # Where listing is forbidden, a file that does not exist is forbidden too.
      if optional and _status(error) == 403:
        return None
      raise

  def _under(self, prefix: str, delimiter: str | None = None) -> list[Any]:
    def pages() -> list[Any]:
      found = self.client.list_blobs(
        self.bucket, prefix=prefix, delimiter=delimiter, max_results=MAX_FILES + 1,
        timeout=CONNECT_SECONDS, retry=None,
      )  # fmt: skip
      return [blob for blob in found if not blob.name.endswith('/')]  # consoles' folder marks

    return _attempts(pages)

  def _file(self, blob: Any) -> _File:
    digest = blob.md5_hash and f'md5:{base64.b64decode(blob.md5_hash).hex()}'
    if not digest and blob.crc32c:  # files put together from parts have no MD5
      digest = f'crc32c:{base64.b64decode(blob.crc32c).hex()}'
    return _File(blob.name, blob.size, digest or '')

  def download(self, listing: _Listing, folder: Path) -> Path:
    root = folder / listing.version
    root.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for file in listing.files)
    bar = tqdm(
      total=total, unit='B', unit_scale=True, unit_divisor=1024, disable=not self.progress,
      desc=PurePosixPath(self.path).name,
    )  # fmt: skip
    with _locked(folder / 'lock', self.address), bar:
      for file in listing.files:
        target = root / file.name
        if target.is_file() and target.stat().st_size == file.size:
          bar.update(file.size)
          continue
        part = target.with_name(f'{target.name}.part')
        part.parent.mkdir(parents=True, exist_ok=True)
        with self.telling(f'the download of {file.name}'):
          self._fill(part, file, bar)
        self.check(part, file)
        part.rename(target)
    return root

  def _fill(self, part: Path, file: _File, bar: Any) -> None:
    """Goes on where an earlier call stopped; the generation makes sure that it is the same file."""
    blob = self.blobs[file.name]
    with part.open('ab') as out:
      if out.tell() > file.size:
        out.truncate(0)
      bar.update(out.tell())
      while (start := out.tell()) < file.size:
        end = min(start + PIECE, file.size) - 1
        piece = _attempts(
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


STORES: dict[str, Callable[[str, str, bool], Any]] = {'hf': _Hub, 'gs': _Bucket}


def _cache() -> Path:
  return Path(os.environ.get('VIVIT_CACHE') or Path.home() / '.cache/vivit_jax/remote')


def _read(record: Path) -> _Kept | None:
  """Returns what the cache holds, if it is whole; a damaged record is as good as none."""
  with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
    held = json.loads(record.read_text())
    files = tuple(_File(**file) for file in held['listing'].pop('files'))
    kept = _Kept(held['root'], _Listing(**held['listing'], files=files))
    return kept if kept.whole() else None
  return None


def _write(path: Path, text: str) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'{path.name}.{os.getpid()}')
  part.write_text(text)
  part.replace(path)


@contextlib.contextmanager
def _locked(path: Path, address: str) -> Iterator[None]:
  """Lets one process fetch; the others, which wait, find the files there."""
  with path.open('w') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f'{address}: waiting for another process that fetches it', file=sys.stderr)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _attempts(call: Callable[[], T]) -> T:
  """Calls again after a broken connection or a busy server, never after a clear answer."""
  for pause in PAUSES:
    try:
      return call()
    except Exception as error:
      if _status(error) not in (None, *BUSY) or _is_login(error):
        raise
    time.sleep(pause)
  return call()


def _status(error: Exception) -> int | None:
  """Returns the HTTP status in an error of httpx, requests, the hub or Google; None without one."""
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  return status or getattr(error, 'code', None)


def _is_login(error: Exception) -> bool:
  return type(error).__module__.startswith('google.auth')


def _expected(path: Path, address: str, sha256: str | None) -> Path:
  if sha256 is None:
    return path
  if not path.is_file():
    what = 'is a folder: sha256 is that of one file' if path.is_dir() else 'does not exist'
    raise CheckpointError(f'{address}: {what}')
  found = _digest(path, 'sha256')
  if found != sha256.lower():
    raise CheckpointError(
      f'{address}: has SHA-256 {found}, expected {sha256}: it is not the file you mean'
    )
  return path


def _digest(path: Path, algorithm: str) -> str:
  if algorithm == 'git':  # of files that the hub keeps outside of LFS
    digest = hashlib.sha1(b'blob %d\0' % path.stat().st_size)
  elif algorithm == 'crc32c':
    digest = importlib.import_module('google_crc32c').Checksum()
  else:
    digest = hashlib.new(algorithm)
  with path.open('rb') as file:
    while piece := file.read(2**20):
      digest.update(piece)
  return digest.digest().hex()


def _short(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _side_car(path: str) -> str:
  return str(PurePosixPath(path).with_suffix('.json'))


def _is_shard(name: str, stem: str | None) -> bool:
  """Returns whether a file is one of STEM-00001-of-00002.safetensors and so on."""
  return stem is not None and re.fullmatch(
    re.escape(stem) + r'-\d+-of-\d+\.safetensors', name
  ) is not None  # fmt: skip


def _near(name: str, names: Iterable[str]) -> str:
  names = list(names)
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
  return f'; nearest: {", ".join(close)}' if close else f'; there are: {_some(names) or "none"}'


def _some(names: Iterable[str]) -> str:
  names = list(names)
  return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
