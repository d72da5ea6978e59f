# SPDX-License-Identifier: Apache-2.0
"""Labels of mirrored clips: the class whose name has left and right exchanged."""

import re
from collections.abc import Sequence

# Words, also in snake_case: 'Pushing [something] from left to right', 'swipe_left'.
SIDE = re.compile(r'(?<![a-z])(left|right)(?![a-z])', re.IGNORECASE)
OTHER = {'left': 'right', 'right': 'left'}


def mirrored_classes(names: Sequence[str]) -> tuple[int | None, ...]:
  """Returns for each class the class of a mirrored clip.

  Args:
    names: class names of a head.

  Returns:
    Per class: its own id if its name has no left or right; otherwise the id of the class with the
    two exchanged, or None if there is no such class, so that its clips cannot be mirrored.
  """
  ids = {name.lower(): i for i, name in enumerate(names)}
  return tuple(ids.get(SIDE.sub(_other, name.lower())) for name in names)


def mirrored_labels(
  labels: Sequence[int], heads: Sequence[Sequence[int | None]]
) -> tuple[int, ...] | None:
  """Returns the labels of a mirrored clip, or None if one of them cannot be mirrored.

  Args:
    labels: class id per head, or the ids of all present classes if there is one multi_label head.
    heads: results of `mirrored_classes` for each head.
  """
  tables = heads if len(heads) > 1 else [heads[0]] * len(labels)
  found = [table[label] for table, label in zip(tables, labels, strict=True)]
  known = tuple(label for label in found if label is not None)
  return known if len(known) == len(found) else None


def _other(match: re.Match[str]) -> str:
  return OTHER[match[0].lower()]
