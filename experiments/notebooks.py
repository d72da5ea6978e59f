# SPDX-License-Identifier: Apache-2.0
"""Runs the notebooks of docs/ and stores what their cells show, without progress bars."""

# Run from the repository root, after pip install nbclient ipykernel:
# python experiments/notebooks.py [docs/notebooks/first_steps.ipynb ...]

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path('docs/notebooks')


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


def main() -> None:
  """Runs the notebooks that are named, or all."""
  for file in map(Path, sys.argv[1:] or sorted(map(str, FOLDER.glob('*.ipynb')))):
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name='python3').execute()
    for cell in notebook.cells:
      cell.metadata = {}
      if cell.cell_type == 'code':
        cell.outputs = tidy(cell.outputs)
    notebook.metadata = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3'}}
    nbformat.write(notebook, file)
    print(f'{file}: {file.stat().st_size / 1000:.0f} kB')


if __name__ == '__main__':
  main()
