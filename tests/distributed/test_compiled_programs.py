# SPDX-License-Identifier: Apache-2.0
"""Compiled programs are cached if it is safe and the user has not configured a cache."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from vivit_jax.distributed import launch
from vivit_jax.distributed.launch import keep_compiled_programs, kind_of_cpu

ROOT = Path(__file__).parent.parent.parent
X86 = """\
processor\t: {core}
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu avx2 {flags}
cpu MHz\t\t: 26{core}6.1
"""
ARM = 'processor : 0\nBogoMIPS : 243.75\nFeatures : fp asimd {flags}\nCPU part : 0xd4f\n'


@pytest.fixture
def folder(monkeypatch):
  """Returns a function that starts on a platform with what the user had set."""

  def start(platform, given, cache):
    monkeypatch.setattr(jax, 'default_backend', lambda: platform)
    monkeypatch.setenv('VIVIT_CACHE', cache)
    jax.config.update('jax_compilation_cache_dir', given)
    keep_compiled_programs()
    return jax.config.jax_compilation_cache_dir

  before = jax.config.jax_compilation_cache_dir
  yield start
  jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.parametrize(
  'platform, given, cache, expected',
  [
    ('tpu', None, '/cache', '/cache/compiled'),
    ('gpu', None, '/cache', '/cache/compiled'),
    ('gpu', None, '', '/home/someone/.cache/vivit_jax/compiled'),
    ('gpu', '/own', '/cache', '/own'),
    ('cpu', None, '/cache', f'/cache/compiled/cpu-{kind_of_cpu()}'),
    ('cpu', '/own', '/cache', '/own'),
  ],
)
def test_folder(folder, monkeypatch, platform, given, cache, expected):
  monkeypatch.setenv('HOME', '/home/someone')
  assert folder(platform, given, cache) == expected


@pytest.mark.parametrize('form', [X86, ARM])
def test_the_kind_of_a_cpu_is_what_it_can_do(tmp_path, form):
  def kind(*cores):
    file = tmp_path / 'cpuinfo'
    file.write_text('\n'.join(form.format(core=k, flags=flags) for k, flags in enumerate(cores)))
    return kind_of_cpu(file)

  assert kind('avx512f') == kind('avx512f', 'avx512f')
  assert len({kind('avx512f'), kind(''), kind('amx'), kind('', 'amx')}) == 4


def test_an_unknown_cpu_keeps_nothing(folder, tmp_path, monkeypatch):
  for content in ('processor : 0\n', None):
    file = tmp_path / 'cpuinfo'
    file.write_text(content) if content else file.unlink()
    assert kind_of_cpu(file) is None
  monkeypatch.setattr(launch, 'kind_of_cpu', lambda: None)
  assert folder('cpu', None, '/cache') is None


PROGRAM = """
import json, jax, jax.numpy as jnp, numpy as np
from vivit_jax.distributed.launch import keep_compiled_programs
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
keep_compiled_programs()
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
def loss(w, x):
  return jnp.sum(jax.nn.softmax(jnp.tanh(x @ w) @ w.T) ** 2)
w, x = (jax.random.normal(jax.random.key(k), (64, 64)) for k in (0, 1))
value, grad = jax.jit(jax.value_and_grad(loss))(w, x)
count = {name: sum(e.endswith(f'/cache_{name}') for e in events) for name in ('hits', 'misses')}
print(json.dumps([count, value.item().hex(), np.asarray(grad).tobytes().hex()]))
"""


def test_a_second_process_reuses_the_compiled_program(tmp_path):
  environment = {
    'PATH': '', 'HOME': str(tmp_path), 'VIVIT_CACHE': str(tmp_path), 'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': str(ROOT),
  }  # fmt: skip
  said = []
  for _ in range(2):
    done = subprocess.run(
      [sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ''  # XLA warns where a program was compiled for another machine
    said.append(json.loads(done.stdout))
  (first, *one), (second, *two) = said
  assert first['misses'] > 0
  assert first['hits'] == 0
  assert second == {'hits': first['misses'], 'misses': 0}
  assert one == two
  assert [path.name for path in (tmp_path / 'compiled').iterdir()] == [f'cpu-{kind_of_cpu()}']
