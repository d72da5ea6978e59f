# SPDX-License-Identifier: Apache-2.0
"""What a decoding process does until its trainer closes the connection, ends, or kills it.

It imports neither JAX nor grain, and so is decoding half a second after its start.
"""

import ctypes
import dataclasses
import mmap
import os
import pickle
import queue
import resource
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from vivit_jax.data.loader.buffers import rows
from vivit_jax.data.loader.jobs import Answer, Job, do
from vivit_jax.data.loader.read_ahead import reading_ahead
from vivit_jax.data.records import Reader

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Orders:
  """What a worker is told once."""

  reader: Reader
  row: tuple[int, ...]  # shape of one row of a batch, [F, H, W, 3]
  parent: int  # process id


@dataclasses.dataclass(frozen=True)
class NewBuffer:
  """Announces a buffer, whose file follows."""

  number: int


def main(connection: int, orders: int) -> None:
  """Serves a connection.

  Args:
    connection: file descriptor of a socket: NewBuffer and Job come in, first True and then Answers
      or exceptions go out.
    orders: file descriptor of the pickled Orders.
  """
  link = Connection(connection)
  # The end of the trainer must end a decoder too that hangs with the interpreter's lock.
  ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
  # Writing a core file of all buffers can take longer than replacing the process.
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  told: Orders = pickle.loads(mmap.mmap(orders, 0, prot=mmap.PROT_READ))
  if os.getppid() != told.parent:
    return
  reader, ahead = reading_ahead(told.reader)
  buffers: dict[int, mmap.mmap] = {}
  jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
  threading.Thread(target=_decode, args=(link, told.row, reader, buffers, jobs)).start()
  link.send(True)
  try:
    while True:
      message = link.recv()
      if isinstance(message, NewBuffer):
        file = recv_handle(link)
        buffers[message.number] = mmap.mmap(file, 0)
        os.close(file)
      else:
        if ahead is not None:
          ahead.start(message.attempt.index)
        jobs.put(message)
  except (EOFError, OSError):
    os._exit(0)


def _decode(
  link: Connection,
  row: tuple[int, ...],
  reader: Reader,
  buffers: dict[int, mmap.mmap],
  jobs: 'queue.SimpleQueue[Job]',
) -> None:
  while True:
    job = jobs.get()
    answer: Answer | Exception
    try:
      answer = do(job, reader, lambda place: rows(buffers[place[0]], row)[place[1]])
    except Exception as error:
      answer = _told(error)
    try:
      link.send(answer)
    except OSError:
      os._exit(0)


def _told(error: Exception) -> Exception:
  """Returns an error as it can be sent, with where it came from."""
  error.add_note('in a decoding process:\n' + ''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:
    return RuntimeError('\n'.join([repr(error), *error.__notes__]))
  return error
