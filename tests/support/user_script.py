# SPDX-License-Identifier: Apache-2.0
"""A user's script with all of the Python API, for `mypy --strict` and an installed wheel."""

import sys
from pathlib import Path

import numpy as np

import vivit_jax as vivit

settings: dict[str, str | int] = {name: int(n) for name, n in (a.split('=') for a in sys.argv[1:])}
run: vivit.Run = vivit.train('moving_digits', 'runs/mine', {**settings, 'augment.flip': 'off'})
top1: float = run.metrics['top1']
model: vivit.Model = vivit.load(run.workdir)
labels: tuple[str, ...] = model.labels
clip = sorted(Path.home().glob('.cache/vivit_jax/moving_digits-*/test/*.mp4'))[0]
for label, probability in model.predict(clip, views=(4, 3)):
  print(f'{label}: {probability:.1%} of {len(labels)}, top1 {top1}')
frames = np.zeros((24, 48, 56, 3), np.uint8)
best: str = model.predict(frames)[0][0]
for answer in model.predict([str(clip), str(clip)]):
  first: tuple[str, float] = answer.labels[0]
  print(answer.path, first, answer.error)
features: vivit.Features = model.features(clip, level='clip')
whole = model.features(clip, level='tokens', whole=True, hop=0.5)
print(features.values.shape, features.seconds.shape, whole)
attention: vivit.Attention = model.attention(clip, label=labels[0])
print(attention.map.shape, attention.overlay.dtype, len(attention.mp4()))
for segment in model.timeline(frames, fps=10.0).segments:
  print(segment.label, segment.start, segment.end)
try:
  vivit.load('nowhere')
except vivit.UserError as error:
  print(error)
