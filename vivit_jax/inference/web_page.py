# SPDX-License-Identifier: Apache-2.0
"""Exports a model as a self-contained web page: a folder for any static server."""

import importlib.resources
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from vivit_jax.errors import ConfigError
from vivit_jax.evaluate.page import STYLE
from vivit_jax.inference import onnx_export
from vivit_jax.inference.export import Export, written
from vivit_jax.inference.onnx_model import size_of
from vivit_jax.inference.predict import make_protocol

RUNTIME = 'onnxruntime-web@1.30.0'
FILES = ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm')
MOST = 1_500_000_000  # maximum bytes of parameters; WebAssembly has 4 GB, including copies of them


def write(export: Export, target: Path, runtime: Path | None = None) -> float:
  """Writes the folder and returns the maximum difference of the model's logits.

  Args:
    export: the model with export options, for uint8 and any batch size.
    target: folder to write.
    runtime: folder of the unpacked npm package; None = download it with npm.

  Raises:
    ConfigError: the target exists, the model is too large or needs another kind of resizing than
      the page has, or the runtime is not available.
    ExportError: the logits differ by more than the bound; nothing is written.
  """
  source = export.pretrained.source
  if size_of(source.params) > MOST:
    raise ConfigError(
      f'{source.path} has {size_of(source.params) / 1e9:.1f} GB of parameters, more than browsers '
      'can hold: use --to=onnx on a server'
    )
  if export.protocol.interpolation != 'area':
    raise ConfigError(
      f'{source.path} needs frames resized by {export.protocol.interpolation}, but the page '
      'resizes only by area: use --to=onnx on a server'
    )
  with written(target) as folder:
    _copy_runtime(folder, runtime)
    off = onnx_export.write(export, folder / 'model.onnx', external=MOST)
    protocol = make_protocol(source)
    about = export.metadata() | {
      'views': {'temporal': protocol.temporal_views, 'spatial': protocol.spatial_views}
    }
    (folder / 'model.json').write_text(json.dumps(about, indent=1))
    pages = importlib.resources.files(__package__)
    page = pages.joinpath('web_page.html').read_text().replace('/*STYLE*/', STYLE)
    (folder / 'index.html').write_text(page)
    (folder / 'video.js').write_text(pages.joinpath('web_video.js').read_text())
    (folder / 'page.js').write_text(pages.joinpath('web_page.js').read_text())
  return off


def _copy_runtime(folder: Path, runtime: Path | None) -> None:
  if runtime is not None:
    place = runtime / 'dist' if (runtime / 'dist').is_dir() else runtime
    missing = [name for name in FILES if not (place / name).is_file()]
    if missing:
      raise ConfigError(
        f'--runtime={runtime} is not the package onnxruntime-web: it has no {missing[0]}'
      )
    for name in FILES:
      shutil.copyfile(place / name, folder / name)
    return
  remedy = f'unpack `npm pack {RUNTIME}` and give its folder as --runtime=FOLDER'
  with tempfile.TemporaryDirectory() as temporary:
    place = Path(temporary)
    try:
      subprocess.run(
        ['npm', 'pack', RUNTIME, '--silent'], cwd=place, check=True, capture_output=True, text=True
      )
    except FileNotFoundError:
      raise ConfigError(f'--to=page needs npm to fetch {RUNTIME}; or {remedy}') from None
    except subprocess.CalledProcessError as error:
      why = (error.stderr.strip().splitlines() or ['no message'])[-1]
      raise ConfigError(f'npm cannot fetch {RUNTIME} ({why}); {remedy}') from None
    (archive,) = place.glob('*.tgz')
    shutil.unpack_archive(archive, place, filter='data')
    _copy_runtime(folder, place / 'package')
