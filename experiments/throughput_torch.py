# SPDX-License-Identifier: Apache-2.0
"""PyTorch ViViTs (Hugging Face, vit-pytorch) as programs for throughput.py."""

# Needs torch and transformers or vit-pytorch; of ours only the table of sizes, which needs no JAX.

from collections.abc import Callable

import torch

from contestant import Contest, arguments, serve
from vivit_jax.config.schema import SIZES


def hugging_face(contest: Contest) -> torch.nn.Module:
  """Returns Hugging Face's only ViViT, which is spatio-temporal; takes [B, F, 3, H, W]."""
  from transformers import VivitConfig, VivitForVideoClassification

  size = SIZES[contest.size]
  config = VivitConfig(
    image_size=contest.pixels,
    num_frames=contest.frames,
    tubelet_size=[2, 16, 16],
    hidden_size=size.width,
    num_hidden_layers=size.layers,
    num_attention_heads=size.heads,
    intermediate_size=size.mlp_dim,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    num_labels=contest.classes,
  )
  config._attn_implementation = 'sdpa'

  class Logits(torch.nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.model = VivitForVideoClassification(config)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
      return self.model(pixel_values=video.permute(0, 1, 4, 2, 3)).logits

  return Logits()


def vit_pytorch(contest: Contest) -> torch.nn.Module:
  """Returns vit-pytorch's factorised encoder or self-attention; takes [B, 3, F, H, W]."""
  from vit_pytorch.vivit import ViViT

  size = SIZES[contest.size]
  encoder = contest.attention == 'factorised_encoder'
  model = ViViT(
    image_size=contest.pixels,
    image_patch_size=16,
    frames=contest.frames,
    frame_patch_size=2,
    num_classes=contest.classes,
    dim=size.width,
    spatial_depth=size.layers,
    temporal_depth=4 if encoder else size.layers,
    heads=size.heads,
    mlp_dim=size.mlp_dim,
    pool='cls' if encoder else 'mean',
    variant='factorized_encoder' if encoder else 'factorized_self_attention',
    use_flash_attn=True,
  )

  class Logits(torch.nn.Module):
    def __init__(self) -> None:
      super().__init__()
      self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
      return self.model(video.permute(0, 4, 1, 2, 3))

  return Logits()


def main() -> None:
  """Serves one program."""
  contest = arguments()
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  torch.manual_seed(0)
  model = {'hugging_face': hugging_face, 'vit_pytorch': vit_pytorch}[contest.program](contest)
  model = model.to(device).train()
  notes = []
  if device == 'cuda':
    model = torch.compile(model)
    notes.append('under torch.compile')
  else:
    notes.append('torch.compile skipped: torch sees no CUDA device, so the model runs as it is')
  optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
  shape = (contest.batch, contest.frames, contest.pixels, contest.pixels, 3)
  pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
  labels = torch.randint(0, contest.classes, (contest.batch,), device=device)
  half = contest.dtype == 'bfloat16'

  def step() -> None:
    with torch.autocast(device, torch.bfloat16, enabled=half):
      logits = model(pixels.float() / 127.5 - 1.0)
      loss = torch.nn.functional.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    _wait(device)

  serve(
    step,
    lambda: torch.cuda.max_memory_allocated() if device == 'cuda' else None,
    _peak(device),
    lambda: [*notes, attention_of(step)],
  )


def attention_of(step: Callable[[], None]) -> str:
  """Returns which of PyTorch's attentions a step computes, as its profiler sees it."""
  with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
    step()
  names = {event.key for event in profiler.key_averages()}
  found = sorted(
    name
    for name in names
    if name.startswith('aten::_scaled_dot_product') and not name.endswith('_backward')
  )
  if any('flash' in name or 'cudnn' in name for name in found):
    return f'attention by {", ".join(found)}'
  return f'flash attention skipped: PyTorch chose {", ".join(found) or "plain products"} for it'


def _peak(device: str) -> tuple[Callable[[], object], float]:
  side = 2048 if device == 'cpu' else 8192
  dtype = torch.float32 if device == 'cpu' else torch.bfloat16
  x = torch.ones(side, side, dtype=dtype, device=device)

  def product() -> None:
    x @ x
    _wait(device)

  return product, 2.0 * side**3


def _wait(device: str) -> None:
  if device == 'cuda':
    torch.cuda.synchronize()


if __name__ == '__main__':
  main()
