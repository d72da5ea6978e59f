# SPDX-License-Identifier: Apache-2.0
"""Runs the notebooks of docs/ and stores what their cells show, without progress bars."""

# Run from the repository root, after pip install nbclient ipykernel:
# python experiments/notebooks.py [docs/notebooks/first_steps.ipynb ...]
# With --weights it trains the small model that they load instead, in a minute on two CPU cores.

import sys
import tempfile
from pathlib import Path

import vivit_jax as vivit
from vivit_jax.cli.main import main as run_command

FOLDER = Path('docs/notebooks')
SMALL = {
  'model.layers': 2,
  'model.temporal_layers': 1,
  'model.width': 40,
  'model.mlp_dim': 80,
  'clip.height': 32,
  'clip.width': 32,
  'augment.crop.short_side': 32,
  'train.batch_size': 16,
  'train.learning_rate': 2e-3,
  'train.steps': 500,
  'train.evaluate_every': 500,
  'evaluate.temporal_views': 1,
  'data.moving_digits.train_videos': 800,
  'data.moving_digits.validation_videos': 40,
  'data.moving_digits.test_videos': 80,
}


def train_weights(target: Path) -> None:
  """Writes the model that the notebooks load; prints how often it is right."""
  target.unlink(missing_ok=True)
  with tempfile.TemporaryDirectory() as folder:
    run = vivit.train('moving_digits', folder, SMALL)
    code = run_command(['convert', folder, str(target), '--to=safetensors'])
    if code:
      raise SystemExit(code)
  print(f'{target}: top-1 {run.metrics["top1"]:.1%}, {target.stat().st_size / 1000:.0f} kB')


def tidy(outputs: list) -> list:
  """Returns outputs without standard error, whose lines are of progress, and in one piece."""
  kept: list = []
  for output in outputs:
    if output.output_type != 'stream':
      kept.append(output)
    elif output.name == 'stdout':
      if kept and kept[-1].output_type == 'stream':
        kept[-1].text += output.text
      else:
        kept.append(output)
  return kept


def execute(file: Path) -> None:
  """Runs a notebook in its folder and stores its outputs."""
  import nbformat
  from nbclient import NotebookClient

  notebook = nbformat.read(file, as_version=4)
  place = {'metadata': {'path': str(file.parent)}}
  NotebookClient(notebook, timeout=600, kernel_name='python3', resources=place).execute()
  for cell in notebook.cells:
    cell.metadata = {}
    if cell.cell_type == 'code':
      cell.outputs = tidy(cell.outputs)
  notebook.metadata = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3'}}
  nbformat.write(notebook, file)
  print(f'{file}: {file.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
  if sys.argv[1:] == ['--weights']:
    train_weights(FOLDER / 'digits.safetensors')
  else:
    for name in sys.argv[1:] or sorted(map(str, FOLDER.glob('*.ipynb'))):
      execute(Path(name))
