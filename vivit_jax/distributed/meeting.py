# SPDX-License-Identifier: Apache-2.0
"""Where the processes of a run meet before JAX connects them: who is missing, who does not fit.

Process 0 listens at the address that JAX's service gets afterwards. Each of the others connects and
sends a line of JSON: its number, and how many it takes them to be. Once all are there, or it is
clear that they will not be, process 0 answers all with one line. All of this is Python, so that it
says what it waits for and can be interrupted, neither of which JAX's own start does.
"""

import contextlib
import json
import selectors
import socket
import sys
import time

from vivit_jax.errors import ConfigError

REPORT = 30.0  # seconds between two lines about what is waited for
DELAY = 10.0  # seconds before others than process 0 say so at all
RETRY = 0.2  # seconds between two attempts to reach process 0
STRANGER = 20.0  # seconds for which something else may answer at its address: a run that ends, say
TALKING = 2.0  # seconds for a line, once connected
LINE = 4096  # bytes


def meet(address: str, processes: int, process: int, seconds: float) -> None:
  """Returns once all processes are there.

  Args:
    address: HOST:PORT of process 0.
    processes: how many there are.
    process: this one's number.
    seconds: in which all must come.

  Raises:
    ConfigError: they do not fit, or not all came: one line, the same in all that are there.
  """
  if process == 0:
    _Host(address, processes, seconds).gather()
  else:
    _join(address, processes, process, seconds)


class _Host:
  """Process 0, and who has come to it."""

  def __init__(self, address: str, processes: int, seconds: float):
    self._address, self._processes, self._seconds = address, processes, seconds
    self._came: dict[int, socket.socket] = {}
    self._refusal: str | None = None

  def gather(self) -> None:
    """Waits for all, and tells them the outcome."""
    deadline = time.monotonic() + self._seconds
    waiting = _Progress(deadline)
    with _listening(self._address) as server, selectors.DefaultSelector() as selector:
      selector.register(server, selectors.EVENT_READ)
      while self._missing() and self._refusal is None:
        if time.monotonic() > deadline:
          self._refuse(f'{self._missing()} did not come within {self._seconds:g} s')
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
    """Notes what a process says; returns whether its connection is worth keeping."""
    said = _line(peer)
    if said is None:  # it has ended, or is no process of ours
      self._came = {k: other for k, other in self._came.items() if other is not peer}
      return False
    number, processes = said.get('process'), said.get('processes')
    if processes != self._processes:
      self._refuse(
        f'the number of processes is {self._processes} in process 0 and {processes} in process '
        f'{number}'
      )
    elif number in self._came:
      self._refuse(f'two processes are process {number}')
    elif not isinstance(number, int) or not 0 < number < self._processes:
      return False
    else:
      self._came[number] = peer
    return True

  def _refuse(self, why: str) -> None:
    self._refusal = f'{why}: start the same command on every host, each with its number'


def _join(address: str, processes: int, process: int, seconds: float) -> None:
  """Reaches process 0 and waits for its answer."""
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
          waiting.say(f'process 0 at {address} waits for others')
          if time.monotonic() > deadline + STRANGER:  # it should have said who is missing
            raise OSError('it is connected and silent')
        answer = _line(server)
      if answer is not None and 'refusal' in answer:
        if answer['refusal'] is None:
          return
        raise ConfigError(str(answer['refusal']))
      problem = 'something else answers: a run that has begun without this process, or ended'
      stranger = True
    except OSError as error:
      problem, stranger = error.strerror or str(error), False
    patience = min(STRANGER, seconds) if stranger else seconds
    if time.monotonic() > began + patience:
      raise ConfigError(
        f'--coordinator={address} does not answer ({problem}): start process 0 there with the same '
        f'number of processes, {processes}, and let the port through'
      )
    waiting.say(f'waiting for process 0 at {address} ({problem})')
    time.sleep(RETRY)


def selectable(peer: socket.socket) -> bool:
  """Returns within a second whether there is something to read."""
  with selectors.DefaultSelector() as selector:
    selector.register(peer, selectors.EVENT_READ)
    return bool(selector.select(1.0))


def _line(peer: socket.socket) -> dict | None:
  """Returns what a connection says in one line; None: it is closed, silent or says no JSON."""
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
  """Returns the socket of process 0, on all interfaces as JAX's own service."""
  port = int(address.rpartition(':')[2])
  try:
    # Of both families where the machine has both, since HOST may resolve to either.
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(('', port), family=family, dualstack_ipv6=both, backlog=1024)
  except (OSError, OverflowError) as error:
    reason = getattr(error, 'strerror', None) or error
    raise ConfigError(
      f'--coordinator={address} cannot be used: {reason}; give another port'
    ) from None


class _Progress:
  """Says what is waited for, and again when it changes or time passes."""

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
