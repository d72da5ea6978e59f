# SPDX-License-Identifier: Apache-2.0
"""Eight virtual CPU devices for every test, and fixtures that tests of several folders share."""

import os
import signal
from pathlib import Path

# Before the first import of JAX, which reads both once.
os.environ['JAX_PLATFORMS'] = 'cpu'
# Many small programs: without LLVM's optimisation they compile in half the time.
os.environ['XLA_FLAGS'] = ' '.join(
  [
    '--xla_force_host_platform_device_count=8',
    '--xla_backend_optimization_level=0',
    os.environ.get('XLA_FLAGS', ''),
  ]
).strip()

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Its asserts explain themselves, as those of tests do.
pytest.register_assert_rewrite('support')

# Run by a script in the background or under nohup, tests and the commands that they interrupt would
# be deaf to these.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
HANDLERS = {
  kind: signal.getsignal(kind)
  for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
}


# What `pytest -m quick` runs: files and single tests of every folder that need no whole run.
QUICK = (
  'test_architecture.py',
  'checkpoint/test_workdir.py',
  'config/test_config.py',
  'config/test_config_file.py',
  'config/test_config_renamed.py',
  'data/test_data_clips.py',
  'data/test_data_crop.py',
  'data/test_data_manifest.py',
  'data/test_data_mirror.py',
  'data/test_data_records.py',
  'distributed/test_sharding.py',
  'evaluate/test_evaluate_metrics.py',
  'model/test_model_tokenizer.py',
  'model/test_model_variants.py::test_flax_nnx_wraps_the_model',
  'model/test_model_variants.py::test_stored_tree_is_per_layer',
  'plan/test_summary.py',
  'train/test_train_losses.py',
  'train/test_train_optimizer.py',
  'weights/test_weights_read.py',
  'weights/test_weights_round_trip.py',
)


def pytest_collection_modifyitems(items):
  """Marks the quick tests."""
  here = Path(__file__).parent
  for item in items:
    file = str(item.path.relative_to(here))
    quick = file in QUICK or f'{file}::{item.originalname}' in QUICK
    if quick and not item.get_closest_marker('faults'):
      item.add_marker('quick')


@pytest.fixture(autouse=True)
def signals():
  """Signal handlers as they were: `vivit train` ignores signals once all that is left is to end.

  Before the test too, since fixtures of a whole module train before this one is set up.
  """
  restore_signals()
  yield
  restore_signals()


def restore_signals():
  for kind, handler in HANDLERS.items():
    signal.signal(kind, handler)


@pytest.fixture
def rng():
  """A fresh NumPy generator, the same for every test."""
  return np.random.default_rng(0)


@pytest.fixture
def random_params(rng):
  """A function that fills a tree of shapes at random: no zeros and ones that would hide a part."""

  def fill(shapes, scale=0.2):
    def leaf(path, shape):
      centre = 1.0 if path[-1].key == 'scale' else 0.0
      return jnp.asarray(centre + scale * rng.normal(size=shape.shape), shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)

  return fill


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory):
  """One tiny data set for all tests, whatever the user has."""
  folder = tmp_path_factory.getbasetemp() / 'cache'
  os.environ['VIVIT_CACHE'] = str(folder / 'vivit')
  return folder


@pytest.fixture
def one_device(monkeypatch):
  """Whole runs on the first of the eight virtual devices, for which they compile faster."""
  devices = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda: devices)


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory):
  """Runs of the same shapes share their programs, in other files too."""
  settings = {
    'jax_compilation_cache_dir': str(tmp_path_factory.getbasetemp() / 'programs'),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  for values in (settings, before):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    if values is settings:
      yield
