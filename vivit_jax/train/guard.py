# SPDX-License-Identifier: Apache-2.0
"""A helper process that kills a hung trainer if none of its Python threads can run; see `watchdog`.

Unlike a timer inside the trainer, it can distinguish a hung process from a suspended one. It runs
as a script, without importing the package.
"""

import datetime
import os
import select
import signal
import sys
import time

LOOK = 0.5  # seconds
DUMPING = 5.0  # seconds to write the stacks, after which the trainer is killed anyway


def main() -> None:
  """Reads lines with the seconds until the next line is due; returns when standard input closes."""
  parent = os.getppid()
  limit, silent = float('inf'), 0.0
  while silent <= limit:
    if select.select([0], [], [], LOOK)[0]:
      said = os.read(0, 4096)
      if not said:
        return
      limit, silent = float(said.split()[-1]), 0.0
    elif not _is_stopped(parent):
      silent += LOOK  # not clock time: this process may have been suspended too
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
