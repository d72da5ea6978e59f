# SPDX-License-Identifier: Apache-2.0
"""Exports a model to ONNX and verifies it with onnxruntime."""

import json
from pathlib import Path

import numpy as np

from vivit_jax.errors import ConfigError
from vivit_jax.inference.export import Export, compare, written

EXTERNAL = (
  1 << 30
)  # bytes of parameters from which they are stored in a second file; one ONNX file holds 2 GiB


def write(export: Export, target: Path, external: int = EXTERNAL) -> float:
  """Writes a model and returns the maximum difference of its logits.

  Args:
    export: the model and export options.
    target: file to write; large models get a second file with the suffix `.data`.
    external: size of parameters in bytes from which they are stored in that second file.

  Raises:
    ConfigError: onnx is not installed, or the target exists.
    CheckpointError: an operation cannot be exported.
    ExportError: the logits differ by more than the bound; nothing is written.
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
