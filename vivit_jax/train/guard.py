# SPDX-License-Identifier: Apache-2.0
"""A process of its own, which ends the trainer where no thread of Python's can: see `watchdog`.

Unlike a timer within the trainer it can tell a process that hangs from one that was stopped. It is
run as a file, without the package and what that imports.
"""

import datetime
import os
import select
import signal
import sys
import time

LOOK = 0.5  # seconds
DUMPING = 5.0  # seconds for the stacks, after which the trainer ends without them


def main() -> None:
  """Reads, line by line, how many seconds the parent may stay silent; ends with standard input."""
  parent = os.getppid()
  limit, silent = float('inf'), 0.0
  while silent <= limit:
    if select.select([0], [], [], LOOK)[0]:
      said = os.read(0, 4096)
      if not said:
        return
      limit, silent = float(said.split()[-1]), 0.0
    elif not _is_stopped(parent):
      silent += LOOK  # not what the clock says: this process may have been stopped too
  print(f'Timeout ({datetime.timedelta(seconds=limit)})!', file=sys.stderr, flush=True)
  os.kill(parent, signal.SIGUSR2)
  time.sleep(DUMPING)
  if os.getppid() == parent:
    os.kill(parent, signal.SIGKILL)


def _is_stopped(process: int) -> bool:
  try:
    with open(f'/proc/{process}/stat', encoding='utf-8', errors='replace') as file:
      return file.read().rpartition(')')[2].split()[0] in 'Tt'
  except OSError:
    return False


if __name__ == '__main__':
  main()
