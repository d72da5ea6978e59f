# SPDX-License-Identifier: Apache-2.0
"""The local page: answers, refusals in one sentence, nothing left behind, nothing that ends it."""

import asyncio
import dataclasses
import http.client
import json
import os
import resource
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from support.bad_contents import Crash
from support.browser import CHROMIUM, opened
from support.streams import worker_pids
from support.videos import write_images
from support.working_models import pretrained, save
from vivit_jax.cli.main import main
from vivit_jax.errors import DataError
from vivit_jax.inference.answer import Answerer
from vivit_jax.inference.predict import predict
from vivit_jax.inference.serve import Sandbox, Server


@pytest.fixture(scope='module')
def model():
  return pretrained(scale=0.15)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
  small = np.random.default_rng(0).integers(0, 255, (40, 6, 8, 3), np.uint8)
  images = small.repeat(8, axis=1).repeat(8, axis=2)
  return write_images(tmp_path_factory.mktemp('videos') / 'x.mp4', images)


@pytest.fixture(scope='module')
def uploads(tmp_path_factory):
  """The folder that takes temporary files meanwhile."""
  folder = tmp_path_factory.mktemp('uploads')
  before, tempfile.tempdir = tempfile.tempdir, str(folder)
  yield folder
  tempfile.tempdir = before


@pytest.fixture(scope='module')
def server(model, uploads):
  with Server(Answerer(model), 'runs/<digits>', 0, megabytes=2) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def ask(server, method='POST', path='/video', body=None, **headers):
  """Returns status and document of one request."""
  connection = http.client.HTTPConnection('127.0.0.1', server.server_address[1], timeout=120)
  try:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    kind = answer.headers['Content-Type']
    assert "default-src 'none'" in answer.headers['Content-Security-Policy']
    return answer.status, json.loads(content) if kind == 'application/json' else content.decode()
  finally:
    connection.close()


def test_an_upload_is_answered_as_predict_does_and_deleted(server, model, video, uploads):
  status, found = ask(server, body=video.read_bytes())
  assert status == 200
  (expected,) = predict(model, [str(video)])
  for one, (label, share) in zip(found['heads']['label'], expected.heads['label'], strict=True):
    assert one['label'] == label
    np.testing.assert_allclose(one['probability'], share, rtol=1e-4)
  assert found['overlay'].startswith('data:video/mp4;base64,')
  assert '<polyline' in found['timeline']['drawing']
  assert found['clip'] == pytest.approx([1.2, 2.7])
  assert not list(uploads.iterdir())


def test_the_page_and_its_script(server):
  assert '<h1 id="title">' in ask(server, 'GET', '/')[1]
  assert 'fetch' in ask(server, 'GET', '/serve.js')[1]
  assert ask(server, 'GET', '/about')[1] == {'title': 'runs/<digits>', 'megabytes': 2}
  assert ask(server, 'GET', '/../setup.py')[0] == 404
  assert ask(server, 'POST', '/other', b'')[0] == 404


@pytest.mark.parametrize(
  'content, reason',
  [
    (b'', 'empty: 0 bytes'),
    (b'words', "not a video: text that begins 'words'"),
    (b'\x89PNG\r\n', 'not a video: a PNG picture'),
    (b'#EXTM3U\n/etc/passwd', 'a playlist'),
  ],
)
def test_a_bad_file_is_one_sentence(server, content, reason, uploads):
  status, found = ask(server, body=content)
  assert status == 422
  assert found['error'].startswith('This file cannot be read: ')
  assert reason in found['error']
  assert not list(uploads.iterdir())


def test_an_upload_of_two_gigabytes_is_refused_before_it_is_sent(server, uploads):
  with socket.create_connection(server.server_address, timeout=30) as client:
    host = f'127.0.0.1:{server.server_address[1]}'
    head = f'POST /video HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2000000000\r\n'
    client.sendall(f'{head}Expect: 100-continue\r\n\r\n'.encode())
    answer = client.recv(4096).decode()
  assert answer.startswith('HTTP/1.1 413')
  status, found = ask(server, body=b'x' * 2_000_001)
  assert (status, found['error']) == (413, 'The file has 2 MB; 2 MB are allowed.')
  assert not list(uploads.iterdir())


@pytest.mark.parametrize('length', ['-1', 'many', '1_0', '', None])
def test_a_length_that_is_none_is_refused(server, length):
  with socket.create_connection(server.server_address, timeout=30) as client:
    host = f'127.0.0.1:{server.server_address[1]}'
    line = '' if length is None else f'Content-Length: {length}\r\n'
    client.sendall(f'POST /video HTTP/1.1\r\nHost: {host}\r\n{line}\r\n'.encode())
    assert client.recv(4096).decode().startswith('HTTP/1.1 411')


def test_an_upload_that_ends_early_is_forgotten(server, uploads):
  with socket.create_connection(server.server_address, timeout=30) as client:
    host = f'127.0.0.1:{server.server_address[1]}'
    head = f'POST /video HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000\r\n\r\n'
    client.sendall(head.encode() + b'x' * 10)
    client.shutdown(socket.SHUT_WR)
    assert 'ended too early' in client.recv(4096).decode()
  assert not list(uploads.iterdir())


@pytest.mark.parametrize(
  'headers', [{'Host': 'evil.example'}, {'Origin': 'http://evil.example'}, {'Origin': 'null'}]
)
def test_other_sites_are_refused(server, headers):
  assert ask(server, 'GET', '/', **headers)[0] == 403
  assert ask(server, body=b'words', **headers)[0] == 403


def test_only_this_machine_and_only_one_server_on_a_port(server, model, tmp_path, capsys):
  assert server.server_address[0] == '127.0.0.1'
  checkpoint = str(save(model, tmp_path / 'x.safetensors'))
  port = server.server_address[1]
  for arguments, reason in (
    ([f'--port={port}'], f'--port={port} on 127.0.0.1 cannot be used (Address already in use)'),
    (['--port=99999'], '--port=99999 on 127.0.0.1 cannot be used'),
    (['--max-megabytes=0'], '--max-megabytes=0 is not a size'),
  ):
    assert main(['serve', checkpoint, *arguments]) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_ends_its_decoder_does_not_end_the_server(server, video, monkeypatch):
  sandbox = Sandbox(Crash())
  with monkeypatch.context() as patch:
    patch.setattr(server, 'sandbox', sandbox)
    status, found = ask(server, body=video.read_bytes())
    assert status == 422
    assert found['error'] == 'This file cannot be read: decoder crashed: it ended by SIGSEGV.'
    assert ask(server, body=video.read_bytes()) == (status, found)  # by another process
  sandbox.close()
  assert ask(server, body=video.read_bytes())[0] == 200


def test_a_decoder_that_was_killed_while_idle_is_replaced(server, video):
  (pid,) = worker_pids(os.getpid())
  os.kill(pid, signal.SIGKILL)
  time.sleep(1.0)
  assert ask(server, body=video.read_bytes())[0] == 200


def mutants(content, count):
  """Yields damaged copies: bytes changed, cut out, doubled, or the end missing."""
  rng = np.random.default_rng(1)
  for k in range(count):
    data = bytearray(content)
    place = int(rng.integers(len(data)))
    size = int(rng.integers(1, 64))
    match k % 4:
      case 0:
        for at in rng.integers(len(data), size=size).tolist():
          data[at] = int(rng.integers(256))
      case 1:
        del data[place : place + size]
      case 2:
        data[place:place] = data[place : place + size]
      case 3:
        del data[place:]
    yield bytes(data)


def bombard(server, video, uploads, count):
  """Asks for answers to damaged copies; returns how often each status came."""
  counts = {}
  for data in mutants(video.read_bytes(), count):
    status, found = ask(server, body=data)
    assert status in (200, 422), found
    assert status == 200 or (found['error'].endswith('.') and '\n' not in found['error'])
    counts[status] = counts.get(status, 0) + 1
  assert not list(uploads.iterdir())
  assert ask(server, body=video.read_bytes())[0] == 200
  return counts


def test_damaged_uploads_are_answered_or_refused(server, video, uploads):
  assert sum(bombard(server, video, uploads, 24).values()) == 24


@pytest.mark.faults
def test_a_thousand_damaged_uploads(server, video, uploads):
  bombard(server, video, uploads, 50)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(bombard(server, video, uploads, 1000))
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  print(f'{grown / 1024:.0f} MiB more at most')
  assert grown < 200 * 1024


def test_answers_that_are_no_numbers_are_said(model, video, uploads):
  params = dict(model.params)
  params['head'] = {**params['head'], 'bias': np.full(6, np.inf, np.float32)}
  with pytest.raises(DataError, match='non-finite'):
    Answerer(dataclasses.replace(model, params=params)).answer(Path(video))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')
def test_the_page_in_a_browser(server, model, video, tmp_path):
  bad = tmp_path / '<i>bad.mp4'
  bad.write_text('words')

  async def visit():
    async with opened(server.url) as page:
      await page.until("document.body?.dataset.state === 'ready'")
      await page.choose('#file', video)
      await page.until("document.body?.dataset.state === 'done'")
      rows = await page.value(
        "[...document.querySelectorAll('.bars tr')].map(r => [r.dataset.label, +r.dataset.share])"
      )
      playing = await page.until("document.getElementById('overlay').videoWidth")
      curves = await page.value("document.querySelectorAll('#timeline polyline').length")
      title = await page.value('document.title')
      await page.screenshot(tmp_path / 'page.png')
      await page.choose('#file', bad)
      await page.until("document.body?.dataset.state === 'failed'")
      status = await page.value("document.getElementById('status').textContent")
      return rows, playing, curves, title, status, page.requests

  rows, width, curves, title, status, requests = asyncio.run(visit())
  (expected,) = predict(model, [str(video)])
  assert [label for label, _ in rows] == [label for label, _ in expected.heads['label']]
  np.testing.assert_allclose(
    [share for _, share in rows], [share for _, share in expected.heads['label']], rtol=1e-4
  )
  assert (width, curves, title) == (336, 6, 'runs/<digits>')
  assert status.startswith("<i>bad.mp4: This file cannot be read: not a video: text that begins 'w")
  assert all(request.startswith((server.url, 'blob:', 'data:')) for request in requests)
  assert (tmp_path / 'page.png').stat().st_size > 10_000
