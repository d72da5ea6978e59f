# SPDX-License-Identifier: Apache-2.0
"""One call for every format: finds out which it is from the names, and reads it."""

from pathlib import Path

from vivit_jax.config.schema import CheckpointFacts
from vivit_jax.errors import CheckpointError, and_more
from vivit_jax.weights import export, huggingface, image_vit, scenic, videoprism
from vivit_jax.weights.readers import MAX_BYTES, open_checkpoint
from vivit_jax.weights.source import Source


def load_source(
  path: str | Path,
  hints: CheckpointFacts | None = None,
  sha256: str | None = None,
  max_bytes: int = MAX_BYTES,
) -> Source:
  """Returns a checkpoint of any format in our terms, complete and checked.

  Args:
    path: a file or folder (see readers.open_checkpoint, which bounds time and memory).
    hints: what tensors and side-car do not tell; what they do tell it must not contradict.
    sha256: digest that the file must have.
    max_bytes: that it may have.

  Raises:
    CheckpointError: naming the file and what is wrong, or what has to be said.
  """
  hints = hints or CheckpointFacts()
  checkpoint = open_checkpoint(path, sha256, max_bytes)
  if export.is_ours(checkpoint):
    return export.load(checkpoint, hints)
  if image_vit.is_augreg(checkpoint):
    return image_vit.load_augreg(checkpoint, hints)
  if image_vit.is_timm(checkpoint):
    return image_vit.load_timm(checkpoint, hints)
  if videoprism.is_videoprism(checkpoint):
    return videoprism.load(checkpoint, hints)
  if huggingface.kind(checkpoint):
    return huggingface.load(checkpoint, hints)
  if scenic.prefix(checkpoint) is not None:
    return scenic.load(checkpoint, hints)
  raise CheckpointError(
    checkpoint.path,
    'holds no vision transformer that we know (Scenic; Hugging Face ViViT, ViT, VideoPrism, '
    'VideoMAE, TimeSformer or V-JEPA 2; VideoPrism, AugReg, timm, '
    f'our own export); its parameters are {and_more(map(repr, checkpoint.entries))}',
  )
