# SPDX-License-Identifier: Apache-2.0
"""MkDocs hooks: links out of docs/ go to the repository, and notebooks become pages."""

import json
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Replaces each notebook by a page with its text, code and outputs."""
  for file in [file for file in files if file.src_uri.endswith('.ipynb')]:
    assert file.abs_src_path is not None
    uri = str(PurePosixPath(file.src_uri).with_suffix('.md'))
    files.remove(file)
    files.append(File.generated(config, uri, content=as_markdown(Path(file.abs_src_path))))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Sends links that leave docs/ to the repository, and those to notebooks to their pages."""
  markdown = re.sub(r'\]\(((?:\.\./)*[\w/]*)\.ipynb\)', r'](\1.md)', markdown)
  above = '../' * (page.file.src_uri.count('/') + 1)
  return re.sub(rf'\]\({re.escape(above)}(?!\.\.)', f']({config.repo_url}/blob/main/', markdown)


def as_markdown(notebook: Path) -> str:
  """Returns a notebook as Markdown; pictures are in the page."""
  parts = []
  for cell in json.loads(notebook.read_text())['cells']:
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(source)
      continue
    parts.append(f'```python\n{source}\n```')
    for output in cell['outputs']:
      data = output.get('data', {})
      text = ''.join(data.get('text/plain', output.get('text', '')))
      if 'image/png' in data:
        png = ''.join(data['image/png']).replace('\n', '')
        parts.append(f'<img alt="output of the cell" src="data:image/png;base64,{png}">')
      elif text:
        parts.append(f'```text\n{text.rstrip()}\n```')
  return '\n\n'.join(parts) + '\n'
