# SPDX-License-Identifier: Apache-2.0
"""Which videos are for validation where nobody says: the same ones on every machine."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Iterable

from vivit_jax.data.index.rows import Row

SHARE = 0.2  # of the training videos that become validation videos


def divide(rows: Iterable[Row]) -> list[Row]:
  """Moves about SHARE of the training videos to validation, chosen by the hash of their path.

  New videos do not move others. All segments of one video stay together. A class with two or more
  videos keeps at least one in each split, except where a video it shares with another class would
  have to be in both.
  """
  rows = list(rows)
  videos: dict[tuple[str, ...], set[str]] = defaultdict(set)
  for row in rows:
    if row.split == 'train' and row.path is not None:
      videos[row.names].add(row.path)
  chosen = {path for paths in videos.values() for path in paths if _place(path) < SHARE}
  for _, paths in sorted(videos.items()):
    if len(paths) > 1 and not paths & chosen:
      chosen.add(min(paths, key=_place))
    elif len(paths) > 1 and paths <= chosen:
      chosen.discard(max(paths, key=_place))
  return [
    dataclasses.replace(row, split='validation')
    if row.split == 'train' and row.path in chosen
    else row
    for row in rows
  ]


def _place(path: str) -> float:
  """Returns a number in [0, 1) that depends on the path alone."""
  digest = hashlib.sha256(path.encode(errors='surrogateescape')).digest()
  return int.from_bytes(digest[:6]) / 2**48
