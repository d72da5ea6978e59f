# SPDX-License-Identifier: Apache-2.0
"""A model as an ONNX file, run by onnxruntime before it gets its name."""

import json
from pathlib import Path

import numpy as np

from vivit_jax.errors import ConfigError
from vivit_jax.inference.export import Export, compare, written

EXTERNAL = (
  1 << 30
)  # bytes of parameters from which on they lie beside the file, which may hold 2 GiB


def write(export: Export, target: Path, external: int = EXTERNAL) -> float:
  """Writes a model and returns by how much its logits are off at most.

  Args:
    export: what and how.
    target: file to write; large ones get a second file, `target` with `.data` behind its name.
    external: bytes of parameters from which on they lie in that second file.

  Raises:
    ConfigError: onnx is missing, or the target exists.
    CheckpointError: an operation that cannot be exported.
    ExportError: its logits are off by more than the bound; nothing is left.
  """
  try:
    import onnx
    import onnxruntime
  except ImportError as error:
    raise ConfigError(f'--to=onnx needs {error.name}: pip install "vivit_jax[export]"') from None
  from vivit_jax.inference.onnx_model import build_model, size_of

  source = export.pretrained.source
  data = target.with_name(f'{target.name}.data')
  large = size_of(source.params) >= external
  if large and data.exists():
    raise ConfigError(f'{data} exists: give another TARGET, or delete it first')
  with written(target) as folder:
    model = build_model(source, export.protocol, export.uint8, export.batch)
    onnx.helper.set_model_props(
      model, {name: json.dumps(value) for name, value in export.metadata().items()}
    )
    onnx.save_model(
      model,
      folder / target.name,
      save_as_external_data=large,
      location=data.name,
      size_threshold=1024,
    )
    del model
    onnx.checker.check_model(str(folder / target.name))
    session = onnxruntime.InferenceSession(
      str(folder / target.name), providers=['CPUExecutionProvider']
    )

    def run(video: np.ndarray) -> np.ndarray:
      (logits,) = session.run(['logits'], {'video': video})
      return logits

    return compare(export, run)
