# SPDX-License-Identifier: Apache-2.0
"""Which axis of which array of a training state `config.mesh.fsdp` splits; one table."""

import re

# End of the path -> the axis that is split over `fsdp`: the model's width D, which all of these
# have. All other arrays (biases, norms, cls tokens: below 0.2 % of a model) are replicated, and so
# are those that fsdp does not divide. Moments and averages are sharded like their parameters.
RULES = {
  r'tokenizer/kernel': -1,  # [t, h, w, c, D]
  r'position': -1,  # [1, tokens, D]
  r'(query|key|value)/kernel': 0,  # [D, heads, dim]
  r'attention\w*/out/kernel': -1,  # [heads, dim, D]
  r'time_dense/kernel': -1,  # [D, D]
  r'mlp/hidden/kernel': 0,  # [D, mlp_dim]
  r'mlp/out/kernel': -1,  # [mlp_dim, D]
  r'head/kernel': 0,  # [D, classes]
}


def rule_of(path: str) -> str | None:
  """Returns the row of the table for a path such as 'params/spatial/block_0/mlp/hidden/kernel'."""
  return next((rule for rule in RULES if re.search(f'(^|/){rule}$', path)), None)


def split_axis(path: str, shape: tuple[int, ...], fsdp: int) -> int | None:
  """Returns which axis of an array of the training state is split over `fsdp` devices, if any.

  Args:
    path: in the state.
    shape: of the whole array.
    fsdp: devices along that axis of the mesh.
  """
  rule = rule_of(path)
  if fsdp == 1 or rule is None or shape[RULES[rule]] % fsdp:
    return None
  return RULES[rule] % len(shape)
