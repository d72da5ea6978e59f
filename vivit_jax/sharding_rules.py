# SPDX-License-Identifier: Apache-2.0
"""Which axis of which parameter the devices along `fsdp` share: one table."""

import re

# End of the path -> the axis of the model's width D, which is the one that all of them have. What
# no row names (biases, norms, cls tokens: below 0.2 % of a model) stays whole on every device, and
# so does what fsdp does not divide. Moments and averages lie as the parameters they belong to.
RULES = (
  (r'tokenizer/kernel', -1),  # [t, h, w, c, D]
  (r'position', -1),  # [1, tokens, D]
  (r'(query|key|value)/kernel', 0),  # [D, heads, dim]
  (r'attention\w*/out/kernel', -1),  # [heads, dim, D]
  (r'mlp/hidden/kernel', 0),  # [D, mlp_dim]
  (r'mlp/out/kernel', -1),  # [mlp_dim, D]
  (r'head/kernel', 0),  # [D, classes]
)


def split_axis(path: str, shape: tuple[int, ...], fsdp: int) -> int | None:
  """Returns which axis of an array of the training state is split over `fsdp` devices, if any.

  Args:
    path: in the state, e.g. 'params/spatial/block_0/mlp/hidden/kernel'.
    shape: of the whole array.
    fsdp: devices along that axis of the mesh.
  """
  for pattern, axis in RULES if fsdp > 1 else ():
    if re.search(f'(^|/){pattern}$', path):
      return axis % len(shape) if shape[axis] % fsdp == 0 else None
  return None
