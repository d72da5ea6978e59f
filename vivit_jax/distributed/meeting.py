# SPDX-License-Identifier: Apache-2.0
"""Rendezvous of the processes before JAX connects them; reports missing or mismatched ones.

Process 0 listens on the address that JAX's coordination service uses afterwards. Every other
process connects and sends one line of JSON: its number and the expected number of processes.
Process 0 answers all of them with one line as soon as all have connected, one does not match, or
the time limit is reached. Unlike JAX's own startup, this reports what it waits for and can be
interrupted.
"""

import contextlib
import json
import selectors
import socket
import sys
import time

from vivit_jax.errors import ConfigError

REPORT = 30.0  # seconds between two progress lines
DELAY = 10.0  # seconds before the first progress line of processes other than 0
RETRY = 0.2  # seconds between two attempts to reach process 0
STRANGER = 20.0  # seconds to tolerate another program at the address, e.g. a run that is ending
TALKING = 2.0  # seconds to receive a line after connecting
LINE = 4096  # bytes


def meet(address: str, processes: int, process: int, seconds: float) -> None:
  """Returns once all processes have connected.

  Args:
    address: HOST:PORT of process 0.
    processes: number of processes.
    process: number of this process.
    seconds: time limit for all to connect.

  Raises:
    ConfigError: processes are missing or do not match; the same message in all of them.
  """
  if process == 0:
    _Host(address, processes, seconds).gather()
  else:
    _join(address, processes, process, seconds)


class _Host:
  """Process 0 and the processes that have connected to it."""

  def __init__(self, address: str, processes: int, seconds: float):
    self._address, self._processes, self._seconds = address, processes, seconds
    self._came: dict[int, socket.socket] = {}
    self._refusal: str | None = None

  def gather(self) -> None:
    """Waits for all processes and sends them the outcome."""
    deadline = time.monotonic() + self._seconds
    waiting = _Progress(deadline)
    with _listening(self._address) as server, selectors.DefaultSelector() as selector:
      selector.register(server, selectors.EVENT_READ)
      while self._missing() and self._refusal is None:
        if time.monotonic() > deadline:
          self._refuse(f'{self._missing()} did not connect within {self._seconds:g} s')
          break
        waiting.say(f'{self._address} waits for {self._missing()}')
        for key, _ in selector.select(1.0):
          if key.fileobj is server:
            with contextlib.suppress(OSError):
              peer, _ = server.accept()
              selector.register(peer, selectors.EVENT_READ)
          else:
            assert isinstance(key.fileobj, socket.socket)
            if not self._hear(key.fileobj):
              selector.unregister(key.fileobj)
              key.fileobj.close()
      answer = json.dumps({'refusal': self._refusal}).encode() + b'\n'
      for key in list(selector.get_map().values()):
        if isinstance(key.fileobj, socket.socket) and key.fileobj is not server:
          with contextlib.suppress(OSError), key.fileobj as peer:
            peer.sendall(answer)
    if self._refusal is not None:
      raise ConfigError(self._refusal)

  def _missing(self) -> str:
    missing = [str(k) for k in range(1, self._processes) if k not in self._came]
    if not missing:
      return ''
    shown = missing if len(missing) <= 8 else [*missing[:8], '...']
    plural = 'es' * (len(missing) > 1)
    return f'process{plural} {", ".join(shown)} of {self._processes}'

  def _hear(self, peer: socket.socket) -> bool:
    """Reads the introduction of a process; returns whether to keep the connection."""
    said = _line(peer)
    if said is None:  # the process has ended or is not of this run
      self._came = {k: other for k, other in self._came.items() if other is not peer}
      return False
    number, processes = said.get('process'), said.get('processes')
    if processes != self._processes:
      self._refuse(
        f'the number of processes is {self._processes} in process 0 and {processes} in process '
        f'{number}'
      )
    elif number in self._came:
      self._refuse(f'two processes have --process={number}')
    elif not isinstance(number, int) or not 0 < number < self._processes:
      return False
    else:
      self._came[number] = peer
    return True

  def _refuse(self, why: str) -> None:
    self._refusal = f'{why}: start the same command on every host, each with its number'


def _join(address: str, processes: int, process: int, seconds: float) -> None:
  """Connects to process 0 and waits for its answer."""
  began = time.monotonic()
  deadline = began + seconds
  waiting = _Progress(deadline, delay=DELAY)
  host, _, port = address.rpartition(':')
  introduction = json.dumps({'process': process, 'processes': processes}).encode() + b'\n'
  problem, stranger = '', False
  while True:
    try:
      with socket.create_connection((host.strip('[]'), int(port)), TALKING) as server:
        server.sendall(introduction)
        while not selectable(server):
          waiting.say(f'process 0 at {address} waits for other processes')
          if time.monotonic() > deadline + STRANGER:  # process 0 should have answered by now
            raise OSError('the connection is open, but nothing was received')
        answer = _line(server)
      if answer is not None and 'refusal' in answer:
        if answer['refusal'] is None:
          return
        raise ConfigError(str(answer['refusal']))
      problem = 'another program answers, e.g. an earlier run'
      stranger = True
    except OSError as error:
      problem, stranger = error.strerror or str(error), False
    patience = min(STRANGER, seconds) if stranger else seconds
    if time.monotonic() > began + patience:
      raise ConfigError(
        f'--coordinator={address} does not answer ({problem}): start process 0 there with '
        f'--processes={processes}, and open the port in firewalls'
      )
    waiting.say(f'waiting for process 0 at {address} ({problem})')
    time.sleep(RETRY)


def selectable(peer: socket.socket) -> bool:
  """Waits up to a second and returns whether there is data to read."""
  with selectors.DefaultSelector() as selector:
    selector.register(peer, selectors.EVENT_READ)
    return bool(selector.select(1.0))


def _line(peer: socket.socket) -> dict | None:
  """Returns the JSON object received, or None if the connection is closed, silent or not JSON."""
  peer.settimeout(TALKING)
  content = b''
  try:
    while not content.endswith(b'\n') and len(content) < LINE:
      part = peer.recv(LINE)
      if not part:
        return None
      content += part
    said = json.loads(content)
  except (OSError, ValueError, RecursionError):
    return None
  return said if isinstance(said, dict) else None


def _listening(address: str) -> socket.socket:
  """Returns the listening socket of process 0, on all interfaces like JAX's own service."""
  port = int(address.rpartition(':')[2])
  try:
    # Listen on IPv4 and IPv6 if possible, since HOST may resolve to either.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(('', port), family=family, dualstack_ipv6=both, backlog=1024)
  except (OSError, OverflowError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise ConfigError(
      f'--coordinator={address} cannot be used: {reason}; give another port'
    ) from None


class _Progress:
  """Prints the reason for waiting when it changes, and again every REPORT seconds."""

  def __init__(self, deadline: float, delay: float = 0.0):
    self._deadline = deadline
    self._said, self._next = '', 0.0
    self._silent_until = time.monotonic() + delay

  def say(self, line: str) -> None:
    now = time.monotonic()
    if now > self._silent_until and (line != self._said or now > self._next):
      left = max(0.0, self._deadline - now)
      print(f'vivit: {line}; {left:.0f} s left', file=sys.stdout, flush=True)
      self._said, self._next = line, now + REPORT
