# SPDX-License-Identifier: Apache-2.0
"""Fetching from hf:// and gs:// against a server on this machine: whole files, once, or one line.

The server speaks the parts of the hub's and of Cloud Storage's interface that their own client
libraries ask for; nothing of ours is replaced, and a connection elsewhere fails the test.
"""

import hashlib
import socket
import sys
import types

import gcsfs.retry
import google.auth.compute_engine._metadata
import huggingface_hub.constants
import pytest

from support.remote_service import FOLDER, WEIGHTS, Handler, Service
from vivit_jax.errors import CheckpointError
from vivit_jax.weights import listing
from vivit_jax.weights.download import download


async def no_pause(seconds):
  del seconds


@pytest.fixture
def service(tmp_path, monkeypatch):
  elsewhere, connect, look_up = [], socket.socket.connect, socket.getaddrinfo

  def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] != '127.0.0.1':
      elsewhere.append(address)
      raise OSError(f'a test reached for {address}')
    return connect(self, address)

  def guarded_look_up(host, *args, **options):
    if host not in ('127.0.0.1', b'127.0.0.1'):
      elsewhere.append(host)
      raise OSError(f'a test looked for {host}')
    return look_up(host, *args, **options)

  monkeypatch.setattr(socket.socket, 'connect', guarded)
  monkeypatch.setattr(socket, 'getaddrinfo', guarded_look_up)
  service = Service()
  monkeypatch.setenv('HF_ENDPOINT', service.address)
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', service.address)
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  monkeypatch.delenv('GOOGLE_APPLICATION_CREDENTIALS', raising=False)
  # The hub's library reads its environment when it is imported.
  monkeypatch.setattr(huggingface_hub.constants, 'ENDPOINT', service.address)
  resolve = service.address + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(huggingface_hub.constants, 'HUGGINGFACE_CO_URL_TEMPLATE', resolve)
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setenv('NO_GCE_CHECK', 'true')
  monkeypatch.setattr(google.auth.compute_engine._metadata, '_NO_GCE_CHECK', True)
  # The pauses of gcsfs between its attempts.
  monkeypatch.setattr(gcsfs.retry, 'asyncio', types.SimpleNamespace(sleep=no_pause))
  yield service
  if service.thread.is_alive():
    service.stop()
  assert not elsewhere


@pytest.fixture(params=['hf://owner/name', 'gs://bucket/owner/name'])
def address(request):
  return request.param


def refused(address, **options):
  """Returns the one line that the user reads."""
  with pytest.raises(CheckpointError) as caught:
    download(address, **options)
  message = str(caught.value)
  assert '\n' not in message
  assert message.startswith(address)
  print(message)
  return message


def names(path):
  return {file.name for file in path.iterdir()}


def test_local_paths_are_returned(tmp_path):
  (tmp_path / 'a.npz').write_bytes(b'abc')
  digest = hashlib.sha256(b'abc').hexdigest()
  assert download(str(tmp_path / 'missing')) == tmp_path / 'missing'
  assert download(tmp_path / 'a.npz', sha256=digest.upper()) == tmp_path / 'a.npz'
  assert f'has SHA-256 {digest}, expected 00' in refused(str(tmp_path / 'a.npz'), sha256='00')
  assert 'is a folder' in refused(str(tmp_path), sha256=digest)


def test_folder_is_fetched_once_and_without_pickles(service, address):
  path = download(address)
  assert {'model.safetensors', 'config.json', 'preprocessor_config.json'} == names(path)
  assert (path / 'model.safetensors').read_bytes() == WEIGHTS
  assert {name for name, _ in service.content} == names(path)
  service.content.clear()
  assert download(address) == path
  assert not service.content


def test_file_comes_with_what_lies_beside_it(service, address):
  service.files |= {'scenic/a.msgpack': WEIGHTS, 'scenic/a.json': b'{"a": 1}', 'scenic/b.npz': b'b'}
  path = download(f'{address}/scenic/a.msgpack')
  assert names(path.parent) == {'a.msgpack', 'a.json'}
  assert 'give one of: ' in refused(f'{address}/scenic')
  del service.files['scenic/b.npz']
  assert download(f'{address}/scenic').name == 'a.msgpack'


def test_shards_and_orbax_folders_come_whole(service, address):
  shards = [f'model-0000{i}-of-00002.safetensors' for i in (1, 2)]
  index = 'model.safetensors.index.json'
  service.files = {name: WEIGHTS + name.encode() for name in shards} | {
    index: b'{}', 'optimizer.safetensors': b'', 'run/_CHECKPOINT_METADATA': b'{}',
    'run/state/d/0f': b'ocdbt', 'run/state/empty': b'',
  }  # fmt: skip
  assert names(download(address)) == {*shards, index}
  assert names(download(f'{address}/{index}').parent) == {*shards, index}
  run = download(f'{address}/run')
  assert (run / 'state/d/0f').read_bytes() == b'ocdbt'
  assert (run / 'state/empty').exists()


def test_only_pickles_are_refused_with_the_safe_conversion(service, address):
  del service.files['model.safetensors']
  message = refused(address)
  assert 'holds only pickled weights: ' in message
  assert 'weights_only=True' in message
  assert 'holds pickled weights. ' in refused(f'{address}/pytorch_model.bin')
  assert not service.content


def test_other_content_than_announced_is_deleted(service, tmp_path):
  service.files, service.wrong = {'model.safetensors': WEIGHTS}, True
  message = refused('gs://bucket/owner/name/model.safetensors')
  assert 'the file was deleted, try again' in message
  assert not [path for path in tmp_path.rglob('*model.safetensors*') if path.is_file()]
  service.wrong = False
  path = download('gs://bucket/owner/name/model.safetensors')
  assert path.read_bytes() == WEIGHTS


def test_sha256_of_the_user(service, address):
  digest = hashlib.sha256(WEIGHTS).hexdigest()
  file = f'{address}/model.safetensors'
  assert f'has SHA-256 {digest}, expected 00' in refused(file, sha256='00')
  # The hub tells the digest beforehand, Cloud Storage has only another one.
  assert not service.content or address.startswith('gs')
  assert download(file, sha256=digest).read_bytes() == WEIGHTS
  assert 'is a folder' in refused(address, sha256=digest)


def test_one_broken_connection_is_not_noticed(service, address):
  service.cuts = 1
  assert download(f'{address}/model.safetensors').read_bytes() == WEIGHTS


def test_interrupted_download_is_whole_after_the_next_call(service, address, monkeypatch, tmp_path):
  monkeypatch.setattr(huggingface_hub.constants, 'DOWNLOAD_CHUNK_SIZE', 2**16)
  file = f'{address}/model.safetensors'

  class Failing(Handler):
    # Nothing comes after the first connection, which is cut off half way.
    def file(self, name):
      if service.cuts or name != 'model.safetensors' or self.command == 'HEAD':
        super().file(name)
      else:
        self.answer(503, {'error': {'message': 'busy'}})

  service.RequestHandlerClass, service.cuts = Failing, 1
  message = refused(file)
  assert 'the download broke off (' in message
  assert 'try again' in message
  assert not [path for path in tmp_path.rglob('model.safetensors') if path.is_file()]
  service.RequestHandlerClass = Handler
  service.content.clear()
  assert download(file).read_bytes() == WEIGHTS
  wanted = [wanted for name, wanted in service.content if name == 'model.safetensors']
  # Some versions of the hub's library go on within a call only, some in the next too.
  assert wanted in ([None], ['bytes=131072-'])


def test_without_network_the_cache_serves_or_an_error_helps(service, address, capsys):
  path = download(address)
  service.stop()
  assert download(address) == path
  assert 'using the copy in the cache' in capsys.readouterr().err
  message = refused(f'{address}/config.json')
  assert 'cannot be reached (' in message
  assert ('hf download owner/name' if address.startswith('hf') else 'gcloud storage cp') in message
  assert 'give the local path' in message
  (path / 'model.safetensors').unlink()
  assert 'cannot be reached (' in refused(address)


def test_new_version_is_fetched(service):
  path = download('gs://bucket/owner/name')
  service.files['model.safetensors'], service.generation = b'new', 2
  assert download('gs://bucket/owner/name') != path
  assert (path / 'model.safetensors').read_bytes() == WEIGHTS  # perhaps in use


def test_bucket_that_lists_nothing_gives_a_file(service):
  service.unlisted = True
  path = download('gs://bucket/owner/name/model.safetensors')
  assert names(path.parent) == {'model.safetensors', 'config.json', 'preprocessor_config.json'}


def test_what_does_not_exist(service, address):
  assert "; did you mean 'model.safetensors'?" in refused(f'{address}/model.safetensor')
  assert 'no bucket bucked' in refused('gs://bucked/owner/name')
  assert "; did you mean 'owner'?" in refused('gs://bucket/ownr/name')
  assert "; did you mean 'owner/name'?" in refused('hf://owner/nama')
  assert "no revision mian; did you mean 'main'?" in refused('hf://owner/name@mian')


@pytest.mark.parametrize('status', [401, 403])
def test_refused_access_names_the_login(service, address, status, capfd):
  service.status = status
  message = refused(address)
  assert f'access was refused (HTTP {status}): ' in message
  assert 'login' in message
  assert not capfd.readouterr().err


def test_unsafe_names_and_endless_sizes_are_refused(service, address, monkeypatch):
  service.files = {'a/x/../../../b.npz': WEIGHTS}
  assert 'unsafe name' in refused(f'{address}/a/x/../../../b.npz')
  monkeypatch.setattr(listing, 'MAX_BYTES', 1000)
  service.files = dict(FOLDER)
  assert 'at most 1000' in refused(address)
  assert not service.content


@pytest.mark.parametrize(
  'other', ['http://127.0.0.1/a.npz', 's3://bucket/a', 'hf://name', 'gs://bucket', 'hf://a/b@']
)
def test_other_addresses_are_refused(other):
  assert 'hf://owner/name[@revision][/file]' in (m := refused(other)) or 'gs://bucket/path' in m


def test_missing_library_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  monkeypatch.setitem(sys.modules, 'gcsfs.core', None)
  for address in ('hf://owner/name', 'gs://bucket/owner/name'):
    assert "pip install 'vivit_jax[hub]'" in refused(address)


def test_cache_that_cannot_be_written(service, tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'file/cache'))
  assert 'set VIVIT_CACHE' in refused('gs://bucket/owner/name')


def test_progress_is_shown_on_a_terminal(service, address, capsys, monkeypatch):
  download(f'{address}/config.json')
  assert not capsys.readouterr().err
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  download(address)
  shown = capsys.readouterr().err
  assert '100%' in shown
  assert 'B/s' in shown


def test_damaged_record_is_as_good_as_none(service, address, tmp_path):
  path = download(address)
  (record,) = (tmp_path / 'cache/remote').glob('*.json')
  record.write_text('{"root": 1')
  assert download(address) == path


def test_the_cache_is_the_folder_remote_of_vivit_cache(service, address, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('VIVIT_CACHE', '~/mine')
  download(address)
  assert list((tmp_path / 'mine/remote').glob('*.json'))
  assert not (tmp_path / '~').exists()
