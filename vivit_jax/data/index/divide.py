# SPDX-License-Identifier: Apache-2.0
"""Which videos are for validation where nobody says: the same ones on every machine."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable

from vivit_jax.data.index.rows import Row

SHARE = 0.2  # of the training videos of each class that become validation videos


def divide(rows: Iterable[Row]) -> list[Row]:
  """Moves SHARE of each class's training videos to validation, those of the lowest hash.

  The hash is of the path below the data's folder alone, so further videos move few others. All
  segments of one video stay together. A class of two or more videos has one in each split, except
  where a video that it shares with another class would have to be in both.
  """
  rows = list(rows)
  videos: dict[tuple[str, ...], set[str]] = defaultdict(set)
  for row in rows:
    if row.split == 'train' and row.path is not None:
      videos[row.names].add(row.path)
  chosen: set[str] = set()
  for _, paths in sorted(videos.items()):
    count = max(round(SHARE * len(paths)), 1) if len(paths) > 1 else 0
    already = len(paths & chosen)  # by another class, in some segment
    chosen |= set(sorted(paths - chosen, key=_place)[: max(count - already, 0)])
  for _, paths in sorted(videos.items()):
    if len(paths) > 1 and paths <= chosen:
      chosen.discard(max(paths, key=_place))
  return [
    dataclasses.replace(row, split='validation')
    if row.split == 'train' and row.path in chosen
    else row
    for row in rows
  ]


def _place(path: str) -> bytes:
  return hashlib.sha256(path.encode(errors='surrogateescape')).digest()
