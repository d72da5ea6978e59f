# SPDX-License-Identifier: Apache-2.0
"""Creates a model card in Markdown from a run's report: scores, data, training and usage."""

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vivit_jax.config.parse import to_dict
from vivit_jax.config.schema import Config, Task
from vivit_jax.evaluate.page import percent

SHOWN_CLASSES = 5  # best and worst classes of each head
SCORES = {  # score in the report: name on the hub, name in the card
  'mAP': ('mean_average_precision', 'mean average precision'),
  'top1': ('accuracy', 'top-1'),
  'top5': ('top_5_accuracy', 'top-5'),
  'class_top1': ('mean_class_accuracy', 'mean of classes'),
}


def make_card(
  repository: str, config: Config, report: Mapping[str, Any], license_id: str | None
) -> str:
  """Returns the content of README.md, including metadata for the hub.

  Args:
    repository: owner/name.
    config: config of the run.
    report: content of its report.json.
    license_id: license name on the hub, e.g. cc-by-4.0; None = unspecified.
  """
  from huggingface_hub import EvalResult, ModelCardData

  name, task = repository.partition('/')[2], config.task
  head = task.joint or task.heads[0]
  results = [
    EvalResult(
      task_type='video-classification',
      dataset_type=report['data'],
      dataset_name=f'{report["videos"]} videos, fingerprint {report["data"]}',
      dataset_split=report['split'],
      metric_type=kind,
      metric_name=f'{title}, {head}',
      metric_value=report[score],
    )
    for score, (kind, title) in SCORES.items()
    if report.get(score) is not None
  ]
  data = ModelCardData(
    library_name='vivit_jax',
    pipeline_tag='video-classification',
    tags=['vivit', 'jax', config.model.attention],
    license=license_id,
    model_name=name,
    eval_results=results,
  )
  parts = [
    f'---\n{data.to_yaml()}\n---',
    f'# {_text(name)}',
    _summary(config),
    *_use(repository),
    '## Results',
    _protocol(report, config),
    *_results(report, task),
    *_classes(report['classes']),
    '## Training',
    _training(config, report),
    f'<details><summary>Every setting</summary>\n\n```json\n{_settings(config)}\n```\n\n</details>',
  ]
  return '\n\n'.join(parts) + '\n'


def _text(value: Any) -> str:
  """Returns a user's name with Markdown and table characters escaped."""
  return html.escape(' '.join(str(value).split())).replace('|', '&#124;').replace('`', '&#96;')


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [header, [':--', *['--:'] * (len(header) - 1)], *rows]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _summary(config: Config) -> str:
  model, clip, task = config.model, config.clip, config.task
  heads = ' and '.join(
    f'{count} classes of {_text(head)}'
    for head, count in zip(task.heads, task.classes, strict=True)
  )
  return (
    f'A ViViT ([arXiv 2103.15691](https://arxiv.org/abs/2103.15691)), model '
    f'`{model.attention}`: {model.layers} layers of width {model.width}, patches of '
    f'{"x".join(map(str, model.patch))}. Its input is a clip of {clip.frames} frames of '
    f'{clip.height}x{clip.width} pixels, and it predicts {heads}.'
  )


def _use(repository: str) -> Iterator[str]:
  yield '## Use'
  yield (
    f'```\npip install "vivit_jax[hub]"\nvivit predict --checkpoint=hf://{repository} clip.mp4\n```'
  )


def _protocol(report: Mapping[str, Any], config: Config) -> str:
  views = report['views']
  skipped = f' ({report["skipped"]} more could not be read)' if report['skipped'] else ''
  return (
    f'{report["videos"]:,} videos of the split `{report["split"]}`{skipped}, '
    f'{views["temporal"]} x {views["spatial"]} views of each, short side '
    f'{config.test_short_side} pixels, step {report["step"]:,}.'
  )


def _results(report: Mapping[str, Any], task: Task) -> Iterator[str]:
  shown = [s for s in SCORES if any(found.get(s) is not None for found in report['tasks'].values())]
  heads = [*task.heads, *([task.joint] if task.joint else [])]
  rows = [
    [_text(head), f'{report["tasks"][head]["classes"]:,}']
    + [percent(report['tasks'][head].get(score)) for score in shown]
    for head in heads
  ]
  yield _table(('task', 'classes', *(SCORES[score][1] for score in shown)), rows)


def _classes(classes: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
  """Yields a table per head with all classes, or the best and worst ones if there are many."""
  for head, rows in classes.items():
    scored = [row for row in rows if row['videos']]
    ends = scored
    if len(scored) > 2 * SHOWN_CLASSES:
      ends = [*scored[:SHOWN_CLASSES], {}, *scored[-SHOWN_CLASSES:]]
    measure = 'average_precision' if any('average_precision' in row for row in rows) else 'top1'
    lines = [
      [_text(row['class']), f'{row["videos"]:,}', percent(row[measure])] if row else ['…'] * 3
      for row in ends
    ]
    title = 'average precision' if measure == 'average_precision' else 'top-1'
    yield _table((_text(head), 'videos', title), lines)


def _training(config: Config, report: Mapping[str, Any]) -> str:
  train = config.train
  long = f'{train.steps:,} steps' if train.steps else f'{train.epochs:g} epochs'
  start = f'from `{_text(config.init.checkpoint)}`' if config.init.checkpoint else 'from scratch'
  early = report.get('stopped_early_at')
  return (
    f'Trained {start} for {long} of {train.batch_size} clips by {train.optimizer}, peak learning '
    f'rate {train.learning_rate:g}, seed {config.seed}'
    + (f'; stopped early at step {early:,}' if early else '')
    + '.'
  )


def _settings(config: Config) -> str:
  settings = to_dict(config)
  settings['data']['root'] = None  # a local path of the training machine
  return json.dumps(settings, indent=1)
