# SPDX-License-Identifier: Apache-2.0
"""The commands that README and docs show, in code blocks and in lines of text."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = {
  str(file.relative_to(ROOT)): file
  for file in (
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').glob('*.md')),
    ROOT / 'experiments' / 'README.md',
  )
}  # fmt: skip
PROGRAMS = ('vivit', 'python', 'python3', 'pytest', 'pip', 'ruff', 'mypy', 'mkdocs', 'git')
FENCE = re.compile(r'^( *)```(\w*)[^\n]*\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r'(?:^    .*\n)+', re.MULTILINE)


def block_commands(page: Path) -> list[str]:
  """Returns the commands of a page's code blocks, each in one line, in their order."""
  text = page.read_text()
  blocks = [body for _, kind, body in FENCE.findall(text) if kind in ('sh', 'bash')]
  blocks += INDENTED.findall(FENCE.sub('', text))
  lines = [
    line.partition('  # ')[0]
    for block in blocks
    for line in re.sub(r'\\\n\s*', '', block).splitlines()
  ]
  return _commands(lines)


def inline_commands(page: Path) -> list[str]:
  """Returns the commands that stand in lines of text, as `code`."""
  text = INDENTED.sub('', FENCE.sub('', page.read_text()))
  return _commands([' '.join(code.split()) for code in re.findall(r'`([^`]+)`', text)])


def _commands(lines: list[str]) -> list[str]:
  found = []
  for part in (part.strip() for line in lines for part in line.split(' && ')):
    # Without variables before it and the folder of its program.
    command = re.sub(r'^(\w+=\S+ )*(\.venv/bin/)?', '', part)
    program, _, rest = command.partition(' ')
    if program in PROGRAMS and rest:
      found.append(command)
  return found


def words(command: str) -> list[str]:
  """Returns the arguments of a command, its program first."""
  return shlex.split(command)
