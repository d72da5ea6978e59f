# SPDX-License-Identifier: Apache-2.0
"""Exports a model as a StableHLO program with parameters; needs JAX, flatbuffers and NumPy to run.

The folder has `program.bin` (of jax.export; for CPUs, GPUs and TPUs), `params.npz` and
`metadata.json`:

    exported = jax.export.deserialize(bytearray(open('program.bin', 'rb').read()))
    params = dict(numpy.load('params.npz'))
    logits = exported.call(params, video)

Parameters are arguments, because a program that contains them is limited to 2 GiB.
"""

from pathlib import Path
from typing import Any

import flatbuffers  # noqa: F401  # needed by jax.export, which does not declare it
import jax
import numpy as np
from flax import traverse_util

from vivit_jax.files import write_json
from vivit_jax.inference.export import Export, ExportError, compare, written

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM, PARAMS, METADATA = 'program.bin', 'params.npz', 'metadata.json'


def write(export: Export, target: Path) -> float:
  """Writes the folder and returns the maximum difference of the logits.

  Raises:
    ConfigError: the target exists.
    ExportError: an operation cannot be exported, or the logits differ by more than the bound;
      nothing is written.
  """
  with written(target) as folder:
    source = export.pretrained.source
    (folder / PROGRAM).write_bytes(_serialize(export))
    arrays: dict[str, Any] = source.params
    np.savez(folder / PARAMS, **arrays)
    write_json(folder / METADATA, {**export.metadata(), 'platforms': PLATFORMS})
    program = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    params = dict(np.load(folder / PARAMS))
    return compare(export, lambda video: np.asarray(program.call(params, video)))


def _serialize(export: Export) -> bytes:
  source = export.pretrained.source

  def forward(params: dict[str, Any], video: jax.Array) -> jax.Array:
    return export.forward(traverse_util.unflatten_dict(params, sep='/'), video)

  size: Any = export.batch
  if size is None:
    (size,) = jax.export.symbolic_shape('batch')
  shape = (size, source.frames, source.height, source.width, 3)
  video = jax.ShapeDtypeStruct(shape, np.uint8 if export.uint8 else np.float32)
  params = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in source.params.items()
  }
  try:
    return bytes(
      jax.export.export(jax.jit(forward), platforms=PLATFORMS)(params, video).serialize()
    )
  except (ValueError, NotImplementedError, jax.errors.JAXTypeError) as error:
    why = ' '.join(str(error).split())[:300]
    raise ExportError(f'an operation of the model cannot be exported: {why}') from error
