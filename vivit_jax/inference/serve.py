# SPDX-License-Identifier: Apache-2.0
"""A local web page that analyzes dropped videos; reachable only from this machine.

A video is first decoded in a worker process, as in `vivit data check`. A file that crashes or hangs
the decoder then ends that process, not the server.
"""

import base64
import contextlib
import http.server
import importlib.resources
import json
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vivit_jax.data.pool import Lost, WorkerPool
from vivit_jax.data.prepare.check import MEGABYTES as MEMORY
from vivit_jax.data.prepare.check import Examine, File
from vivit_jax.data.prepare.jobs import timeout_seconds, why_lost
from vivit_jax.data.video.reader import DecodeError
from vivit_jax.data.worker import Work
from vivit_jax.errors import ConfigError, UserError
from vivit_jax.evaluate.page import STYLE
from vivit_jax.inference.answer import Answer, Answerer
from vivit_jax.inference.timeline_page import drawing, segment_table

ADDRESS = '127.0.0.1'
MEGABYTES = 200  # default upload limit
CHUNK = 1 << 20  # bytes read at a time
SECONDS = 60.0  # time to wait for the next bytes of a request
LINGER, LINGERING = 1.0, 64  # after a refusal: seconds to wait, and chunks to discard
POLICY = (
  "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'unsafe-inline'; "
  'media-src data: blob:; img-src data:'
)


class RefusedError(Exception):
  """A rejected request, with HTTP status and a one-sentence reason."""

  def __init__(self, status: int, sentence: str):
    super().__init__(sentence)
    self.status, self.sentence = status, sentence


class Server(http.server.ThreadingHTTPServer):
  """Serves the page and analyzes uploads, one at a time, for this machine only."""

  daemon_threads = True

  def __init__(
    self,
    answerer: Answerer,
    title: str,
    port: int,
    megabytes: int = MEGABYTES,
    work: Work | None = None,
  ):
    """Binds the port; 0 picks a free one.

    Args:
      answerer: analyzes the videos.
      title: title of the page.
      port: port to listen on.
      megabytes: upload limit.
      work: see `Sandbox`.

    Raises:
      ConfigError: the port is invalid or in use, or the upload limit is below 1.
    """
    if megabytes < 1:
      raise ConfigError(f'--max-megabytes={megabytes} is not a size: give 1 or more')
    self.answerer, self.title, self.bound = answerer, title, megabytes * 10**6
    self.one = threading.Lock()
    self.sandbox = Sandbox(work)  # closed by `server_close`, also if the port is in use
    try:
      super().__init__((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
      why = getattr(error, 'strerror', None) or str(error)
      raise ConfigError(
        f'--port={port} on {ADDRESS} cannot be used ({why}): give another'
      ) from None

  @property
  def url(self) -> str:
    """URL of the page."""
    return f'http://{ADDRESS}:{self.server_address[1]}/'

  def server_close(self) -> None:
    """Closes the port and ends the worker process."""
    super().server_close()
    self.sandbox.close()

  def handle_error(self, request: Any, client_address: Any) -> None:
    """Prints a connection error in one line, usually that the browser disconnected."""
    error = sys.exc_info()[1]
    if not isinstance(error, ConnectionError | TimeoutError):
      print(f'vivit serve: {type(error).__name__}: {error}', file=sys.stderr)


class Handler(http.server.BaseHTTPRequestHandler):
  """Handles one connection."""

  server: Server
  timeout = SECONDS
  protocol_version = 'HTTP/1.1'
  server_version, sys_version = 'vivit', ''

  def do_GET(self) -> None:
    """Returns the page or its script."""
    pages = importlib.resources.files(__package__)
    with self._refusing():
      self._check_origin()
      if self.path == '/':
        page = pages.joinpath('serve.html').read_text().replace('/*STYLE*/', STYLE)
        self._send(200, 'text/html; charset=utf-8', page.encode())
      elif self.path == '/serve.js':
        script = pages.joinpath('serve.js').read_bytes()
        self._send(200, 'text/javascript; charset=utf-8', script)
      elif self.path == '/about':
        about = {'title': self.server.title, 'megabytes': self.server.bound // 10**6}
        self._send_json(200, about)
      else:
        raise RefusedError(404, 'There is only one page, at /.')

  def do_POST(self) -> None:
    """Analyzes an uploaded video and deletes the file in any case."""
    with self._refusing():
      self._check_origin()
      if self.path != '/video':
        raise RefusedError(404, 'Videos go to /video.')
      length = self._length()
      with tempfile.TemporaryDirectory(prefix='vivit-serve-') as folder:
        file = Path(folder) / 'video'
        self._receive(file, length)
        with self.server.one:  # one analysis at a time, to limit memory
          if (why := self.server.sandbox.check(file)) is not None:
            raise RefusedError(422, f'This file cannot be read: {why}.')
          try:
            answer = self.server.answerer.answer(file)
          except DecodeError as error:
            raise RefusedError(422, f'This file cannot be read: {error.reason}.') from None
          except UserError as error:
            raise RefusedError(422, f'This video has no prediction: {error}.') from None
      self._send_json(200, as_dict(answer))

  def handle_expect_100(self) -> bool:
    """Rejects a file that is too large before the client sends it, if the client asks."""
    with self._refusing():
      if self.command == 'POST':
        self._length()
      return super().handle_expect_100()
    return False

  def _length(self) -> int:
    """Returns the length of the upload; rejects too large ones before reading."""
    text = self.headers.get('Content-Length') or ''
    if not (text.isascii() and text.isdecimal()):
      raise RefusedError(411, 'The request does not specify the length of the file.')
    if int(text) > self.server.bound:
      raise RefusedError(
        413,
        f'The file has {int(text) / 1e6:,.0f} MB; {self.server.bound // 10**6:,} MB are allowed.',
      )
    return int(text)

  def _receive(self, file: Path, length: int) -> None:
    if length > shutil.disk_usage(file.parent).free:
      raise RefusedError(507, 'There is not enough disk space for this file.')
    with file.open('wb') as target:
      while length:
        part = self.rfile.read(min(CHUNK, length))
        if not part:
          raise RefusedError(400, 'The upload ended too early.')
        target.write(part)
        length -= len(part)

  def _check_origin(self) -> None:
    """Rejects requests of other sites through the browser, also with a name for 127.0.0.1."""
    port = self.server.server_address[1]
    own = {f'{name}:{port}' for name in (ADDRESS, 'localhost')}
    origin = self.headers.get('Origin')
    if self.headers.get('Host') not in own or (
      origin is not None and origin.removeprefix('http://') not in own
    ):
      raise RefusedError(403, 'This page can only be used from this machine.')

  @contextlib.contextmanager
  def _refusing(self) -> Iterator[None]:
    try:
      yield
    except RefusedError as refused:
      self._refuse(refused.status, refused.sentence)
    except (ConnectionError, TimeoutError):
      raise
    except OSError as error:
      self._refuse(507, f'The file cannot be stored: {error.strerror}.')
    except MemoryError:
      self._refuse(507, 'There is not enough memory for this video.')

  def _refuse(self, status: int, sentence: str) -> None:
    self.close_connection = True
    self._send_json(status, {'error': sentence})
    # Closing with unread bytes would reset the connection before the client reads the response.
    with contextlib.suppress(OSError):
      self.connection.shutdown(socket.SHUT_WR)
      self.connection.settimeout(LINGER)
      for _ in range(LINGERING):
        if not self.connection.recv(CHUNK):
          break

  def _send_json(self, status: int, content: Any) -> None:
    self._send(status, 'application/json', json.dumps(content).encode())

  def _send(self, status: int, kind: str, content: bytes) -> None:
    self.send_response(status)
    for name, value in (
      ('Content-Type', kind),
      ('Content-Length', str(len(content))),
      ('Content-Security-Policy', POLICY),
      ('X-Content-Type-Options', 'nosniff'),
      ('Cache-Control', 'no-store'),
      *([('Connection', 'close')] if self.close_connection else []),
    ):
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
    """Logs nothing, since file names are private."""


class Sandbox:
  """Decodes files in a worker process, which is replaced if it crashes or hangs."""

  def __init__(self, work: Work | None = None):
    """Starts the process.

    Args:
      work: maps a `File` to its problems; None = `Examine` of all frames.
    """
    self._pool = WorkerPool(work or Examine(quick=False), 1, megabytes=MEMORY)
    # A process ends with the thread that starts it, and request threads are short-lived.
    self._thread = ThreadPoolExecutor(1)
    self._thread.submit(self._pool.start).result()

  def check(self, file: Path) -> str | None:
    """Returns why a file cannot be read, or None if it can be read completely."""
    return self._thread.submit(self._check, file).result()

  def _check(self, file: Path) -> str | None:
    seconds = timeout_seconds(str(file))
    self._pool.submit(File(file.name, str(file), ()), seconds)
    while not (outcomes := self._pool.results()):
      pass
    ((_, found),) = outcomes
    if isinstance(found, Lost):
      return why_lost(found, seconds)
    return found[0][2] if found else None

  def close(self) -> None:
    """Ends the process."""
    self._thread.submit(self._pool.close).result()
    self._thread.shutdown()


def as_dict(answer: Answer) -> dict[str, Any]:
  """Returns the content of the page as JSON values."""
  heads = {
    head: [{'label': label, 'probability': share} for label, share in best]
    for head, best in answer.heads.items()
  }
  start, end = answer.explanation.seconds
  mp4 = base64.b64encode(answer.explanation.mp4()).decode()
  result: dict[str, Any] = {
    'heads': heads,
    'overlay': f'data:video/mp4;base64,{mp4}',
    'clip': [start, end],
  }
  if answer.timeline is not None:
    several = len(answer.shares) > 1
    drawings = [
      drawing(head if several else '', answer.timeline, answer.names[head], own, answer.segments)
      for head, own in answer.shares.items()
    ]
    result['timeline'] = {
      'windows': len(answer.timeline.logits),
      'hop': answer.timeline.hop,
      'drawing': ''.join(drawings),
      'table': segment_table(answer.segments, several),
    }
  return result
