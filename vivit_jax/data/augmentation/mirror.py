# SPDX-License-Identifier: Apache-2.0
"""What a mirrored clip shows: the class whose name has left and right exchanged."""

import re
from collections.abc import Sequence

# Words, also in snake_case: 'Pushing [something] from left to right', 'swipe_left'.
SIDE = re.compile(r'(?<![a-z])(left|right)(?![a-z])', re.IGNORECASE)
OTHER = {'left': 'right', 'right': 'left'}


def mirrored_classes(names: Sequence[str]) -> tuple[int | None, ...]:
  """Returns what each class is in the mirror.

  Args:
    names: of the classes of a head.

  Returns:
    Per class its own id where its name has no left or right; the id of the class with the two
    exchanged; None where there is no such class, so that its clips cannot be mirrored.
  """
  ids = {name.lower(): i for i, name in enumerate(names)}
  return tuple(ids.get(SIDE.sub(_other, name.lower())) for name in names)


def mirrored_labels(
  labels: Sequence[int], heads: Sequence[Sequence[int | None]]
) -> tuple[int, ...] | None:
  """Returns the labels of a mirrored clip; None where one of them cannot be mirrored.

  Args:
    labels: class id per head, or ids of the classes present where there is one head.
    heads: what `mirrored_classes` gives for each head.
  """
  tables = heads if len(heads) > 1 else [heads[0]] * len(labels)
  found = [table[label] for table, label in zip(tables, labels, strict=True)]
  known = tuple(label for label in found if label is not None)
  return known if len(known) == len(found) else None


def _other(match: re.Match[str]) -> str:
  return OTHER[match[0].lower()]
