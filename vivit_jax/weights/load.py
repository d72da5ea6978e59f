# SPDX-License-Identifier: Apache-2.0
"""Loads a checkpoint of any format; the format is detected from parameter names."""

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
  """Loads a checkpoint of any format and converts it to this package's names and settings.

  Args:
    path: a file or folder (see readers.open_checkpoint, which limits time and memory).
    hints: settings that tensors and side-car do not have; they must not contradict them.
    sha256: expected digest of the file.
    max_bytes: limit for the file size.

  Raises:
    CheckpointError: names the file and the problem, or the missing settings.
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
    'has no supported vision transformer (Scenic; Hugging Face ViViT, ViT, VideoPrism, '
    'VideoMAE, TimeSformer or V-JEPA 2; VideoPrism, AugReg, timm, '
    f'vivit_jax export); its parameters are {and_more(map(repr, checkpoint.entries))}',
  )
