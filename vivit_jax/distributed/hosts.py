# SPDX-License-Identifier: Apache-2.0
"""Small messages between the processes of a run: broadcasts, gathers and comparisons.

The key-value store of JAX's coordination service carries them. It uses no device, so it works
before the first program, while programs run, and between processes whose programs differ.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import threading
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vivit_jax import __version__
from vivit_jax.errors import ConfigError

# Covers work that one process does while the others wait, such as listing videos.
EXCHANGE_TIMEOUT_SECONDS = 1800.0
SHOWN = 4  # differences listed in an error message


class HostsDifferError(ConfigError):
  """The processes of a run are inconsistent; raised in all of them with the same message."""


@dataclasses.dataclass
class Cluster:
  """This process and its connection to the others."""

  client: Any  # client of JAX's coordination service
  process: int
  processes: int
  neighbors: int = 1  # processes on this host, including this one
  # Started by `shutdown.listen`; it must end before Python exits.
  listener: threading.Thread | None = None
  # Numbers the exchanges; all processes make them in the same order.
  numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)
  messages: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def set(self, key: str, value: Any) -> None:
    """Stores a JSON value; raises JaxRuntimeError if the key exists."""
    self.client.key_value_set(f'vivit/{key}', json.dumps(value))

  def get(self, key: str, seconds: float = EXCHANGE_TIMEOUT_SECONDS) -> Any:
    """Waits for a value and returns it; raises JaxRuntimeError on a timeout."""
    return json.loads(self.client.blocking_key_value_get(f'vivit/{key}', int(seconds * 1000)))

  def list(self, folder: str) -> list[tuple[str, Any]]:
    """Returns the full keys under a prefix with their values."""
    found = self.client.key_value_dir_get(f'vivit/{folder}/')
    return [(key, json.loads(value)) for key, value in sorted(found)]


joined: Cluster | None = None  # None in a single-process run


def process() -> int:
  """Returns the number of this process."""
  return joined.process if joined else 0


def processes() -> int:
  """Returns the number of processes in the run."""
  return joined.processes if joined else 1


def is_first() -> bool:
  """Returns whether this is process 0, which logs and writes files."""
  return process() == 0


def neighbors() -> int:
  """Returns the number of the run's processes on this host, which share its cores."""
  return joined.neighbors if joined else 1


def meet_neighbors(host: str) -> None:
  """Counts the processes on this host by comparing host names."""
  if joined is not None:
    names = broadcast(gather_to_first(host))
    joined.neighbors = names.count(host)


def broadcast(value: Any) -> Any:
  """Returns the value of process 0 in all processes; it must be a small JSON value."""
  if joined is None:
    return value
  key = str(next(joined.numbers))
  if is_first():
    joined.set(key, value)
  return joined.get(key)


def gather_to_first(value: Any) -> list[Any]:
  """Returns the values of all processes in process 0, and an empty list in the others."""
  if joined is None:
    return [value]
  key = str(next(joined.numbers))
  joined.set(f'{key}/{process()}', value)
  return [joined.get(f'{key}/{other}') for other in range(processes())] if is_first() else []


def post(topic: str, value: Any) -> None:
  """Sends a small JSON value to process 0 without blocking; `collect` receives it."""
  assert joined is not None
  joined.set(f'posted/{topic}/{process()}-{next(joined.messages)}', value)


def collect(topic: str) -> list[Any]:
  """Returns, in process 0, the values that the others have posted since the last call."""
  if joined is None:
    return []
  messages = joined.list(f'posted/{topic}')
  for key, _ in messages:
    joined.client.key_value_delete(key)
  return [value for _, value in messages]


def assert_equal_on_all_hosts(facts: Mapping[str, Any]) -> None:
  """Checks that values are equal in all processes.

  Args:
    facts: JSON values, by the names to use in an error message.

  Raises:
    HostsDifferError: values differ; the message has their names and the values of two processes.
  """
  everyone = gather_to_first(dict(facts))
  different: dict[str, str] = {}
  for other, theirs in enumerate(everyone[1:], 1):
    for name in {**everyone[0], **theirs}:
      one, two = (repr(values.get(name, 'missing')) for values in (everyone[0], theirs))
      if one != two:
        different.setdefault(name, f'{name} is {one} in process 0 and {two} in process {other}')
  shown = list(different.values())[:SHOWN]
  if len(different) > SHOWN:
    shown.append(f'{len(different) - SHOWN} more differ')
  found = broadcast('; '.join(shown))
  if found:
    raise HostsDifferError(f'{found}: start the same command, code and data on every host')


def check_shared(folder: Path) -> None:
  """Checks that a folder is shared by all processes.

  Raises:
    HostsDifferError: a process does not see it; names the folder and the process.
  """
  if joined is None:
    return
  token = broadcast(os.urandom(8).hex())
  marker = folder / f'.seen-{token}'
  if is_first() and folder.is_dir():
    marker.touch()
  broadcast('written')
  seen = gather_to_first(marker.exists())
  if is_first():
    marker.unlink(missing_ok=True)
  blind = broadcast([other for other, sees in enumerate(seen) if sees != seen[0]])
  if blind:
    raise HostsDifferError(
      f'--workdir={folder} of process 0 does not exist for process {blind[0]}: give a folder on '
      'a file system that all hosts share'
    )


PACKAGE = Path(__file__).parent.parent


def versions() -> dict[str, str]:
  """Returns the versions of the libraries and a digest of this package's files."""
  digest = hashlib.sha256()
  for file in sorted(PACKAGE.rglob('*.py')):
    digest.update(f'{file.relative_to(PACKAGE)}\0'.encode() + file.read_bytes() + b'\0')
  return {
    'the version of vivit_jax': __version__,
    'the code of vivit_jax': digest.hexdigest()[:16],
    'the version of jax': version('jax'),
    'the version of jaxlib': version('jaxlib'),
  }
