# SPDX-License-Identifier: Apache-2.0
"""Written weights have the permissions of any new file."""

import os

import numpy as np
import pytest
import safetensors.numpy

from vivit_jax.weights.export import write_tensors


@pytest.mark.parametrize('umask', [0o022, 0o027, 0o077])
def test_file_has_the_permissions_of_a_new_one(umask, tmp_path):
  path = tmp_path / 'x.safetensors'
  (tmp_path / f'.x.safetensors.{os.getpid()}').touch(mode=0o600)  # left by a run that was killed
  before = os.umask(umask)
  try:
    write_tensors(path, {'a': np.arange(3)}, {'b': 'c'})
  finally:
    os.umask(before)
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask
  assert [file.name for file in tmp_path.iterdir()] == ['x.safetensors']
  np.testing.assert_array_equal(safetensors.numpy.load_file(path)['a'], np.arange(3))
