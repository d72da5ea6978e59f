# SPDX-License-Identifier: Apache-2.0
"""`vivit push` against a server on this machine: all or nothing, and the model comes back."""

import json
import re

import huggingface_hub.constants
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from support.remote_service import FOLDER, Service
from support.working_models import LABELS, pretrained
from vivit_jax.checkpoint.workdir import read_config
from vivit_jax.cli.main import main
from vivit_jax.config.schema import Evaluate, Task
from vivit_jax.evaluate.accumulate import Predictions
from vivit_jax.evaluate.metrics import compute
from vivit_jax.evaluate.ranks import hits
from vivit_jax.evaluate.report import write_report
from vivit_jax.weights.model_card import make_card
from vivit_jax.weights.pretrained import load_pretrained
from vivit_jax.weights.runs import write_run

# The hub's library uploads by a name that its own HTTP library will drop.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def service(tmp_path, monkeypatch):
  service = Service()
  monkeypatch.setenv('HF_ENDPOINT', service.address)
  constants = huggingface_hub.constants  # which are read when the library is imported
  monkeypatch.setattr(constants, 'ENDPOINT', service.address)
  resolve = service.address + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', resolve)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)  # a protocol of its own
  monkeypatch.setenv('VIVIT_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('HF_TOKEN', 'hf_test')
  yield service
  service.stop()


def report_of(folder, task, names, step=0):
  """Writes a report of made-up predictions."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(30, sum(task.classes)))
  labels = np.stack([rng.integers(n, size=30) for n in task.classes], axis=1)
  clip_hits = hits(logits, labels, task).sum(axis=0)
  found = Predictions(logits, np.ones(30, int), labels, clip_hits, ())
  results = compute(found, task, Evaluate())
  results |= {'step': step, 'split': 'test', 'data': '0123456789abcdef', 'loss': 1.5}
  write_report(
    folder,
    results,
    title='x',
    predictions=found,
    task=task,
    class_names=names,
    curves=(),
    mistakes=(),
    config={},
  )


@pytest.fixture
def run(tmp_path):
  """A run with weights that are its best, and a report of them."""
  workdir, model = tmp_path / 'run', pretrained()
  write_run(model.source, workdir)
  report_of(workdir, model.source.task, {'label': LABELS})
  return workdir


def test_what_was_pushed_is_read_back(service, run, capsys):
  arguments = ['push', f'--workdir={run}', 'owner/new', '--private', '--license=cc-by-4.0']
  assert main(arguments) == 0
  assert capsys.readouterr().out.startswith(f'{run} -> {service.address}/owner/new/commit/')
  assert service.made['name'] == 'new'
  assert service.made.get('private') or service.made.get('visibility') == 'private'
  assert service.commits == ['Model, card and report by vivit push']
  names = ['README.md', 'model.safetensors', 'report.html', 'report.json']
  assert sorted(service.files) == names
  again, model = load_pretrained('hf://owner/new'), pretrained()
  video = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 32, 48, 3)), jnp.float32)
  expected = model.model.apply({'params': model.params}, video)
  found = again.model.apply({'params': jax.device_put(again.params)}, video)
  np.testing.assert_array_equal(found, expected)
  assert again.source.labels == LABELS

  card = service.files['README.md'].decode()
  metadata = huggingface_hub.ModelCard(card).data
  assert (metadata.license, metadata.pipeline_tag) == ('cc-by-4.0', 'video-classification')
  report = json.loads((run / 'report.json').read_text())
  found = {result.metric_type: result.metric_value for result in metadata.eval_results}
  assert found['accuracy'] == report['top1']
  assert f'| label | 6 | {100 * report["top1"]:.1f} % |' in card
  assert 'vivit predict --checkpoint=hf://owner/new clip.mp4' in card
  for row in report['classes']['label']:
    assert f'| {row["class"]} | {row["videos"]} | {100 * row["top1"]:.1f} % |' in card


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ('name', "'new' is not of the form owner/name"),
    ('no report', 'has no report.json, which the model card needs: run `vivit evaluate'),
    ('other step', 'is about step 7, but the best is step 0: run `vivit evaluate'),
    ('damaged', 'report.json is damaged'),
    ('old report', "is of an earlier version (no 'classes'): run `vivit evaluate"),
    ('no login', 'the hub needs a login: run `hf auth login` or set HF_TOKEN'),
    ('exists', 'owner/name exists on the hub: give another name, or --update'),
    ('refused', 'the login was refused (HTTP 403)'),
  ],
)
def test_what_is_refused_changes_nothing_on_the_hub(
  service, run, monkeypatch, tmp_path, capsys, change, message
):
  file, name = run / 'report.json', 'owner/new'
  report = json.loads(file.read_text())
  if change == 'name':
    name = 'new'
  elif change == 'no report':
    file.unlink()
  elif change == 'other step':
    file.write_text(json.dumps({**report, 'step': 7}))
  elif change == 'damaged':
    file.write_text('{')
  elif change == 'old report':
    file.write_text(json.dumps({k: v for k, v in report.items() if k != 'classes'}))
  elif change == 'no login':
    monkeypatch.delenv('HF_TOKEN')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
  elif change == 'exists':
    name = 'owner/name'
  elif change == 'refused':
    service.read_only = True
  assert main(['push', f'--workdir={run}', name]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('vivit: error: ')
  assert message in line
  assert service.made is None
  assert service.commits == []
  assert service.files == FOLDER


def test_an_update_commits_to_what_is_there(service, run):
  service.made = {}  # owner/new is there
  assert main(['push', f'--workdir={run}', 'owner/new', '--update']) == 0
  assert len(service.commits) == 1


def test_a_card_of_hostile_names_and_many_classes(tmp_path, run):
  task = Task(heads=('verb|`x', 'noun'), classes=(24, 2), joint='action')
  names = {'verb|`x': tuple(f'<b>{k}|' for k in range(24)), 'noun': ('a\nb', '犬')}
  report_of(tmp_path, task, names)
  report = json.loads((tmp_path / 'report.json').read_text())
  config = read_config(run)
  object.__setattr__(config, 'task', task)
  card = make_card('owner/new', config, report, None)
  body = card.split('---\n', 2)[2]
  assert '<b>' not in body
  tables = re.findall(r'^\| .*', body, re.MULTILINE)
  assert {line.count('|') for line in tables} <= {4, 6}
  assert '| … | … | … |' in body
  assert 'a b' in body
  assert 'license' not in card.split('---\n', 2)[1]
