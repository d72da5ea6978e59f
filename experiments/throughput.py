# SPDX-License-Identifier: Apache-2.0
"""Speed of the training step compared with a plain port, Hugging Face and vit-pytorch."""

# Run from the repository root, on a machine that does nothing else:
#   python experiments/throughput.py
#   python experiments/throughput.py --mimalloc    (the other programs under our allocator too)
# On CPUs each program has the allocator that it has out of the box: ours that of `vivit train`
# (see vivit_jax/distributed/allocator.py), the others glibc's.
# On one GPU, beside the least time that the compiled step could take (needs vivit_jax[plan]):
#   python experiments/throughput.py --pixels=224 --batch=16 --dtype=bfloat16 --roofline=h100
# There PyTorch's programs run under torch.compile and flash attention. torch, transformers and
# vit-pytorch may live in another environment: --torch-python=PYTHON. Below the table stands what a
# program skipped here, and why. The programs of a model have to fit into memory together.

import argparse
import dataclasses
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from contestant import Contest
from markdown_table import markdown
from throughput_jax import experiment
from vivit_jax.config.schema import Model
from vivit_jax.distributed import allocator
from vivit_jax.model.cost import model_cost
from vivit_jax.model.vivit import build
from vivit_jax.plan.targets import TARGETS

HERE = Path(__file__).parent
# Programs that do the same work, ours first; the others are compared with it.
GROUPS = {
  'factorised_encoder': ('ours', 'ours_scan_remat', 'port', 'vit_pytorch'),
  'spatio_temporal': ('ours', 'ours_scan_remat', 'port', 'hugging_face'),
  'factorised_self_attention': ('ours', 'ours_scan_remat', 'vit_pytorch'),
}
# What PyTorch's programs import, and what installs it.
TORCH = {
  'hugging_face': ('from transformers import VivitForVideoClassification', 'torch transformers'),
  'vit_pytorch': ('from vit_pytorch.vivit import ViViT', 'vit-pytorch'),
}
ALL = list(dict.fromkeys(name for group in GROUPS.values() for name in group))
SHAPE = ('frames', 'pixels', 'batch', 'dtype')


class Program:
  """A running contestant, ready for its next turn."""

  def __init__(self, contest: Contest, python: str):
    kind = 'torch' if contest.program in TORCH else 'jax'
    text = json.dumps(dataclasses.asdict(contest))
    began = time.time()
    # All of a GPU's memory at once, as JAX takes it, would leave the next program none.
    environment = {
      **environment_with(contest.allocator),
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
      'PYTHONPATH': '.',
    }
    self._process = subprocess.Popen(
      [python, str(HERE / f'throughput_{kind}.py'), text],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
      cwd=HERE.parent,
    )
    answer = self._answer()
    self.first_step, self.notes = answer['first_step_at'] - began, answer['notes']

  def seconds(self, steps: int) -> float:
    """Returns the seconds of a step, averaged over the steps of a turn."""
    return self._ask(steps)['seconds']

  def close(self) -> dict[str, Any]:
    """Ends the program; returns peak_bytes and matrix_flops_per_second."""
    result = self._ask(0)
    self._process.communicate()
    return result

  def kill(self) -> None:
    """Ends a program whose answers nobody waits for."""
    self._process.kill()

  def _ask(self, steps: int) -> dict[str, Any]:
    assert self._process.stdin is not None
    self._process.stdin.write(f'{steps}\n')
    self._process.stdin.flush()
    return self._answer()

  def _answer(self) -> dict[str, Any]:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise SystemExit(f'a program ended with exit code {self._process.wait()}: see above')
    return json.loads(line)


def missing(contest: Contest, python: str) -> str | None:
  """Returns why a program cannot run with this Python, None if it can."""
  if contest.program not in GROUPS[contest.attention]:
    return f'skipped: it has no {contest.attention}'
  if contest.program not in TORCH:
    return None
  statement, packages = TORCH[contest.program]
  done = subprocess.run([python, '-c', statement], capture_output=True, text=True, check=False)
  if not done.returncode:
    return None
  return f'skipped: {done.stderr.splitlines()[-1]}: {python} -m pip install {packages}'


def environment_with(name: str) -> dict[str, str]:
  """Returns the environment of a program that gets this allocator."""
  library = allocator.find_library() if name == 'mimalloc' else None
  if library is None:
    return dict(os.environ)
  environment = allocator.preloading(library)
  del environment[allocator.MARK]  # of commands, which start themselves anew
  return environment


def contests(size: str, attention: str, options: argparse.Namespace) -> list[Contest]:
  """Returns the programs of a model with the allocators that they have out of the box."""
  shape = {name: getattr(options, name) for name in SHAPE}
  wanted = options.programs.split(',') if options.programs else ALL
  found = []
  for name in ALL:
    if name in wanted:
      own = 'mimalloc' if name.startswith('ours') and is_replaced() else 'glibc'
      kinds = [own, 'mimalloc'] if options.mimalloc and own == 'glibc' else [own]
      found += [Contest(name, attention, size, allocator=kind, **shape) for kind in kinds]
  return found


def is_replaced() -> bool:
  """Returns whether `vivit train` would start itself under another allocator here."""
  none = allocator.find_library() is None
  return not none and allocator.reason(['train'], os.environ) is None


def step_flops(contest: Contest) -> float:
  """Returns FLOPs of the matrix products of one step, recomputation not counted."""
  config = experiment(contest)
  # Twice a multiply-add; backward is twice forward.
  return 6e9 * model_cost(build(config), config.clip).matmul_gflops * contest.batch


def compare(given: list[Contest], options: argparse.Namespace) -> list[dict[str, Any]]:
  """Returns one row per program, ours first; last those that cannot run, with the reason alone."""
  reasons = {contest.program: missing(contest, options.torch_python) for contest in given}
  absent = [
    {
      'size': contest.size,
      'model': contest.attention,
      'program': contest.program,
      'notes': [reason],
    }
    for contest in given
    if (reason := reasons[contest.program])
  ]
  chosen = [contest for contest in given if not reasons[contest.program]]
  programs: list[Program] = []
  try:
    for contest in tqdm(chosen, chosen[0].attention, unit='start'):
      python = options.torch_python if contest.program in TORCH else sys.executable
      programs.append(Program(contest, python))
    for program in programs:
      program.seconds(1)
    turns = [
      [program.seconds(options.steps) for program in programs]
      for _ in tqdm(range(options.rounds), chosen[0].attention, unit='round')
    ]
    ends = [program.close() for program in programs]
  finally:
    for program in programs:
      program.kill()
  peak = max(end['matrix_flops_per_second'] for end in ends)
  rows = []
  for index, (contest, program, end) in enumerate(zip(chosen, programs, ends, strict=True)):
    seconds = statistics.median(turn[index] for turn in turns)
    rows.append(
      {
        'size': contest.size,
        'model': contest.attention,
        'program': contest.program,
        'allocator': contest.allocator,
        'seconds_per_clip': seconds / contest.batch,
        'times_ours': statistics.median(turn[index] / turn[0] for turn in turns),
        'of_matrix_peak': step_flops(contest) / seconds / peak,
        'peak_bytes': end['peak_bytes'],
        'resident_bytes': end['resident_bytes'],
        'first_step_seconds': program.first_step,
        'matrix_flops_per_second': peak,
        'notes': program.notes,
      }
    )
  return rows + absent


def least(contest: Contest, target: str) -> dict[str, Any]:
  """Returns a row with the least time of our step on a device, which need not be there."""
  arguments = {
    'target': target, 'size': contest.size, 'attention': contest.attention, 'batch': contest.batch,
    'frames': contest.frames, 'pixels': contest.pixels, 'dtype': contest.dtype,
    'temporal-layers': Model.temporal_layers,
  }  # fmt: skip
  done = subprocess.run(
    [sys.executable, str(HERE / 'roofline.py'), '--json']
    + [f'--{name}={value}' for name, value in arguments.items()],
    capture_output=True,
    env={**os.environ, 'PYTHONPATH': '.'},
    cwd=HERE.parent,
    text=True,
    check=False,
  )
  row = {
    'size': contest.size,
    'model': contest.attention,
    'program': f'least on {target}',
    'notes': [],
  }
  if done.returncode:
    return {**row, 'notes': [f'skipped: {done.stderr.splitlines()[-1]}']}
  found = json.loads(done.stdout)
  return {
    **row,
    'allocator': '',
    'seconds_per_clip': found['milliseconds'] / 1000 / contest.batch,
    'of_matrix_peak': found['percent_of_peak'] / 100,
    'peak_bytes': found['temporary_bytes'],
    'resident_bytes': found['temporary_bytes'],
    'first_step_seconds': found['compiled_seconds'],
    'matrix_flops_per_second': TARGETS[target].flops,
  }


def table(rows: list[dict[str, Any]]) -> str:
  """Returns the rows for reading."""
  head = (
    'size', 'model', 'program', 'allocator', 's/clip', 'x ours', '% of matrix peak', 'peak GB',
    'resident GB', 'first step s',
  )  # fmt: skip
  lines = [
    [
      row['size'],
      row['model'],
      row['program'],
      row['allocator'],
      f'{row["seconds_per_clip"]:.4g}',
      f'{row["times_ours"]:.2f}',
      f'{100 * row["of_matrix_peak"]:.1f}',
      f'{row["peak_bytes"] / 1e9:.2f}',
      f'{row["resident_bytes"] / 1e9:.2f}',
      f'{row["first_step_seconds"]:.1f}',
    ]
    for row in rows
    if 'seconds_per_clip' in row
  ]
  notes = [f'{row["model"]}, {row["program"]}: {note}' for row in rows for note in row['notes']]
  return '\n'.join([markdown(head, lines), *notes])


def main() -> None:
  """Prints the table and writes it as JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  defaults = Contest('', '')
  parser.add_argument('--sizes', default=defaults.size, help='of Ti, S, B and L, with commas')
  for name in ('frames', 'pixels', 'batch'):
    parser.add_argument(f'--{name}', type=int, default=getattr(defaults, name))
  parser.add_argument('--dtype', default=defaults.dtype, choices=('float32', 'bfloat16'))
  parser.add_argument('--models', default=','.join(GROUPS), help='with commas between')
  parser.add_argument('--rounds', type=int, default=5, help='turns of each program (%(default)s)')
  parser.add_argument('--steps', type=int, default=1, help='of a turn (%(default)s)')
  parser.add_argument('--programs', help='of those that a model has; all of them by default')
  parser.add_argument('--mimalloc', action='store_true', help='the others under it too')
  parser.add_argument('--roofline', choices=TARGETS, help='the device that this is, or is to be')
  parser.add_argument('--torch-python', default=sys.executable, metavar='PYTHON')
  parser.add_argument('--hardware', default=platform.processor() or platform.machine())
  parser.add_argument('--output', type=Path, default=HERE / 'results' / 'throughput.json')
  options = parser.parse_args()
  if unknown := set(options.models.split(',')) - set(GROUPS):
    parser.error(
      f'--models: no program but ours has {", ".join(unknown)}, only {", ".join(GROUPS)}'
    )
  rows: list[dict[str, Any]] = []
  for size, attention in itertools.product(options.sizes.split(','), options.models.split(',')):
    chosen = contests(size, attention, options)
    found = compare(chosen, options)
    rows += found
    if options.roofline:
      row = least(chosen[0], options.roofline)
      if 'seconds_per_clip' in row:
        row['times_ours'] = row['seconds_per_clip'] / found[0]['seconds_per_clip']
      rows.append(row)
    print(table(rows), flush=True)
  shape = {name: getattr(options, name) for name in SHAPE}
  about = {**shape, 'hardware': options.hardware, 'date': time.strftime('%Y-%m-%d'), 'rows': rows}
  options.output.write_text(json.dumps(about, indent=1) + '\n')


if __name__ == '__main__':
  main()
