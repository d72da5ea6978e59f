# SPDX-License-Identifier: Apache-2.0
"""`vivit serve`: a local web page that analyzes dropped videos."""

import argparse

from vivit_jax.cli.options import add_checkpoint, add_command, facts

HELP = """
The page is reachable only from this machine (127.0.0.1). Uploads are deleted after the analysis.
Press Ctrl-C to stop.

example:
  vivit serve runs/digits
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'serve',
    run,
    summary='show labels, timeline and attention of dropped videos on a local page',
    description='Serves a page on 127.0.0.1: drop a video, see its labels, their timeline\n'
    'and an attention map.',
    usage='CHECKPOINT [--port=N] [--max-megabytes=N]',
    epilog=HELP,
  )
  add_checkpoint(command)
  command.add_argument('--port', type=int, default=8000, metavar='N', help='(%(default)s)')
  command.add_argument(
    '--max-megabytes', type=int, default=200, metavar='N', help='upload limit (%(default)s)'
  )


def run(options: argparse.Namespace) -> int:
  """Runs the command until it is interrupted."""
  from vivit_jax.distributed.launch import keep_compiled_programs
  from vivit_jax.inference.answer import Answerer
  from vivit_jax.inference.serve import Server
  from vivit_jax.weights.pretrained import load_pretrained

  keep_compiled_programs()
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  answerer = Answerer(pretrained, stride=options.stride)
  with Server(answerer, options.checkpoint, options.port, options.max_megabytes) as server:
    print(f'{server.url} (press Ctrl-C to stop)', flush=True)
    try:
      server.serve_forever()
    except KeyboardInterrupt:
      print('vivit: the page is closed')
  return 0
