# SPDX-License-Identifier: Apache-2.0
"""What the processes of one run say to each other: what they have in common, and what they found.

All of it goes through the key-value store of JAX's coordination service. It needs no device, so it
works before the first program, between programs that are still at work, and between processes that
would not run the same program.

Which code this process runs, so that programs compiled in two processes are the same.
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

PATIENCE = 1800.0  # seconds for what a process does alone, such as listing videos or a report


SHOWN = 4  # differences in one line


class HostsDifferError(ConfigError):
  """What all processes find out at once and say in the same words: that they do not fit."""


@dataclasses.dataclass
class Cluster:
  """This process among others."""

  client: Any  # of the coordination service
  process: int
  processes: int
  # Started by `shutdown.listen`; it must have ended when Python does.
  listener: threading.Thread | None = None
  # Names of exchanges: all processes have the same exchanges in the same order.
  numbers: Iterator[int] = dataclasses.field(default_factory=itertools.count)
  messages: Iterator[int] = dataclasses.field(default_factory=itertools.count)

  def set(self, key: str, value: Any) -> None:
    """Stores a plain value; raises JaxRuntimeError where the key has one."""
    self.client.key_value_set(f'vivit/{key}', json.dumps(value))

  def get(self, key: str, seconds: float = PATIENCE) -> Any:
    """Waits for a value; raises JaxRuntimeError."""
    return json.loads(self.client.blocking_key_value_get(f'vivit/{key}', int(seconds * 1000)))

  def list(self, folder: str) -> list[tuple[str, Any]]:
    """Returns the keys of a folder, in full, with their values."""
    found = self.client.key_value_dir_get(f'vivit/{folder}/')
    return [(key, json.loads(value)) for key, value in sorted(found)]


joined: Cluster | None = None  # None: this process is alone


def process() -> int:
  """Returns this process's number."""
  return joined.process if joined else 0


def processes() -> int:
  """Returns how many processes share the run."""
  return joined.processes if joined else 1


def is_first() -> bool:
  """Returns whether this is the process that writes and logs."""
  return process() == 0


def from_first(value: Any) -> Any:
  """Returns the first process's value, plain and small, in all processes."""
  if joined is None:
    return value
  key = str(next(joined.numbers))
  if is_first():
    joined.set(key, value)
  return joined.get(key)


def to_first(value: Any) -> list[Any]:
  """Returns all processes' values, plain and small, in the first; in the others nothing."""
  if joined is None:
    return [value]
  key = str(next(joined.numbers))
  joined.set(f'{key}/{process()}', value)
  return [joined.get(f'{key}/{other}') for other in range(processes())] if is_first() else []


def tell(topic: str, value: Any) -> None:
  """Leaves a plain, small value for the first process, which need not wait for it."""
  assert joined is not None
  joined.set(f'told/{topic}/{process()}-{next(joined.messages)}', value)


def told(topic: str) -> list[Any]:
  """Returns, in the first process, what the others have told since it last asked."""
  if joined is None:
    return []
  messages = joined.list(f'told/{topic}')
  for key, _ in messages:
    joined.client.key_value_delete(key)
  return [value for _, value in messages]


def agree(facts: Mapping[str, Any]) -> None:
  """Compares what all processes must have in common.

  Args:
    facts: plain values, each by the name that a message gives it.

  Raises:
    HostsDifferError: naming what differs, with two processes' values.
  """
  everyone = to_first(dict(facts))
  different: dict[str, str] = {}
  for other, theirs in enumerate(everyone[1:], 1):
    for name in {**everyone[0], **theirs}:
      one, two = (repr(values.get(name, 'missing')) for values in (everyone[0], theirs))
      if one != two:
        different.setdefault(name, f'{name} is {one} in process 0 and {two} in process {other}')
  shown = list(different.values())[:SHOWN]
  if len(different) > SHOWN:
    shown.append(f'{len(different) - SHOWN} more differ')
  found = from_first('; '.join(shown))
  if found:
    raise HostsDifferError(f'{found}: start the same command, code and data on every host')


def check_shared(folder: Path) -> None:
  """Refuses a folder of the first process that another process does not see.

  Raises:
    HostsDifferError: naming it and the process.
  """
  if joined is None:
    return
  token = from_first(os.urandom(8).hex())
  marker = folder / f'.seen-{token}'
  if is_first() and folder.is_dir():
    marker.touch()
  from_first('written')
  seen = to_first(marker.exists())
  if is_first():
    marker.unlink(missing_ok=True)
  blind = from_first([other for other, sees in enumerate(seen) if sees != seen[0]])
  if blind:
    raise HostsDifferError(
      f'--workdir={folder} of process 0 is not there for process {blind[0]}: give a folder on a '
      'file system that all hosts share'
    )


PACKAGE = Path(__file__).parent.parent


def versions() -> dict[str, str]:
  """Returns what `hosts.agree` compares: versions, and a digest of the package's own files."""
  digest = hashlib.sha256()
  for file in sorted(PACKAGE.rglob('*.py')):
    digest.update(f'{file.relative_to(PACKAGE)}\0'.encode() + file.read_bytes() + b'\0')
  return {
    'the version of vivit_jax': __version__,
    'the code of vivit_jax': digest.hexdigest()[:16],
    'the version of jax': version('jax'),
    'the version of jaxlib': version('jaxlib'),
  }
