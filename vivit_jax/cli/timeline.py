# SPDX-License-Identifier: Apache-2.0
"""`vivit timeline`: labels of long videos over time."""

import argparse
import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_jax.cli.options import add_checkpoint, add_command, facts

if TYPE_CHECKING:
  import numpy as np

  from vivit_jax.inference.segments import Segment
  from vivit_jax.inference.timeline import Timeline

TOP = 5  # labels of each window in JSON and CSV

HELP = """
The model is run on windows of the length of a clip, --hop seconds apart; consecutive windows with
the same label are merged to a segment. With a factorised encoder, each tubelet of frames is encoded
once for all windows, so a hop of one tubelet (the default) is cheap. A video shorter than a window
is looped. Exit code 1 if a video could not be read.

examples:
  vivit timeline runs/digits long.mp4
  vivit timeline runs/digits long.mp4 --hop=0.5 --html=long.html
  vivit timeline runs/digits VIDEOS --csv > windows.csv
"""


def add(subcommands: argparse._SubParsersAction) -> None:
  """Declares the command."""
  command = add_command(
    subcommands,
    'timeline',
    run,
    summary='predict the labels of long videos over time',
    description='Prints segments of videos with their labels, start and end.',
    usage='CHECKPOINT VIDEO... [--hop=S] [--json | --csv] [--html=FILE]',
    epilog=HELP,
  )
  add_checkpoint(command)
  command.add_argument('videos', nargs='+', metavar='VIDEO', help='video, folder, or CSV with path')
  command.add_argument(
    '--hop',
    type=float,
    metavar='S',
    help='seconds between windows (default: one tubelet; for models other than the factorised '
    'encoder, a quarter of a window)',
  )
  form = command.add_mutually_exclusive_group()
  form.add_argument('--json', action='store_true', help='print segments and windows as JSON')
  form.add_argument('--csv', action='store_true', help='print the top labels of each window')
  command.add_argument('--html', type=Path, metavar='FILE', help='also write a web page')


@dataclasses.dataclass(frozen=True)
class Answer:
  """One video's timeline, or the error if there is none."""

  path: str
  error: str | None = None
  timeline: 'Timeline | None' = None
  shares: 'dict[str, np.ndarray]' = dataclasses.field(default_factory=dict)
  found: 'Sequence[Segment]' = ()


def run(options: argparse.Namespace) -> int:
  """Runs the command; returns 1 if a video could not be read."""
  from vivit_jax.data.index.videos import collect_videos
  from vivit_jax.data.video.reader import DecodeError
  from vivit_jax.distributed.launch import keep_compiled_programs
  from vivit_jax.errors import ConfigError, UserError
  from vivit_jax.evaluate.predictions import class_names
  from vivit_jax.files import replace_file
  from vivit_jax.inference.segments import all_segments, head_probabilities
  from vivit_jax.inference.timeline import Timeliner
  from vivit_jax.inference.timeline_page import Pictures, render, section
  from vivit_jax.weights.pretrained import load_pretrained

  if options.html and not options.html.parent.is_dir():
    raise ConfigError(f'--html={options.html}: its folder does not exist')
  keep_compiled_programs()
  videos = collect_videos(options.videos)
  pretrained = load_pretrained(options.checkpoint, **facts(options))
  timeliner = Timeliner(pretrained, options.hop, options.stride)
  task = pretrained.source.task
  assert task is not None
  names = class_names(task, pretrained.labels)
  answers, sections = [], []
  for video in videos:
    pictures = Pictures()
    try:
      timeline = timeliner.run(video, pictures if options.html else None)
    except (DecodeError, UserError) as error:
      reason = error.reason if isinstance(error, DecodeError) else str(error)
      answers.append(Answer(video.path, reason))
      continue
    shares = head_probabilities(task, timeline.logits)
    found = all_segments(task, names, shares, timeline.seconds, timeline.duration)
    answers.append(Answer(video.path, None, timeline, shares, found))
    if options.html:
      sections.append(section(video.path, timeline, names, shares, found, pictures.jpegs()))
  if options.html:
    page = render('Timeline', str(timeliner.protocol), sections)
    replace_file(options.html, page.encode())
  form = _json if options.json else _csv if options.csv else _table
  form(answers, names)
  for answer in answers:
    if answer.error is not None and not options.json:
      print(f'{answer.path}: {answer.error}', file=sys.stderr)
  return int(any(answer.error for answer in answers))


def _windows(answer: Answer, names: dict[str, tuple[str, ...]]) -> list[tuple[Any, ...]]:
  """Returns (start, end, head, label, probability) of the top labels of each window."""
  assert answer.timeline is not None
  rows = []
  for k, (start, end) in enumerate(answer.timeline.seconds.tolist()):
    for head, shares in answer.shares.items():
      for i in (-shares[k]).argsort(kind='stable')[:TOP].tolist():
        row = (round(start, 6), round(end, 6), head, names[head][i], float(shares[k, i]))
        rows.append(row)
  return rows


def _json(answers: Sequence[Answer], names: dict[str, tuple[str, ...]]) -> None:
  fields = ('start', 'end', 'head', 'label', 'probability')
  videos: list[dict[str, Any]] = []
  for answer in answers:
    if answer.timeline is None:
      videos.append({'path': answer.path, 'error': answer.error})
      continue
    timeline = answer.timeline
    windows = [dict(zip(fields, row, strict=True)) for row in _windows(answer, names)]
    videos.append(
      {
        'path': answer.path,
        'error': None,
        'seconds': timeline.duration,
        'hop': timeline.hop,
        'phases': timeline.phases,
        'variable_frame_rate': timeline.varies,
        'segments': [dataclasses.asdict(segment) for segment in answer.found],
        'windows': windows,
      }
    )
  print(json.dumps({'videos': videos}, indent=1))


def _csv(answers: Sequence[Answer], names: dict[str, tuple[str, ...]]) -> None:
  writer = csv.writer(sys.stdout, lineterminator='\n')
  writer.writerow(['path', 'start', 'end', 'head', 'label', 'probability'])
  for answer in answers:
    if answer.timeline is not None:
      writer.writerows((answer.path, *row) for row in _windows(answer, names))


def _table(answers: Sequence[Answer], names: dict[str, tuple[str, ...]]) -> None:
  from vivit_jax.inference.timeline_page import clock

  for answer in answers:
    timeline = answer.timeline
    if timeline is None:
      continue
    how = f'{timeline.phases} passes' if timeline.phases > 1 else 'each tubelet encoded once'
    how = how if timeline.phases else 'window by window'
    rate = ', variable frame rate' if timeline.varies else ''
    print(
      f'{answer.path}: {clock(timeline.duration)}, {len(timeline.logits):,} windows, '
      f'{timeline.hop:.3g} s apart, {how}{rate}'
    )
    for s in answer.found:
      head = f'{s.head}: ' if len(names) > 1 else ''
      print(
        f'{clock(s.start):>10} {clock(s.end):>10}  {head}{s.label}  {s.mean:.1%} '
        f'(peak {s.probability:.1%} at {clock(s.peak)})'
      )
