# SPDX-License-Identifier: Apache-2.0
"""The axis along which `config.mesh.fsdp` shards each array of the training state."""

import re

# End of the path -> the axis sharded over `fsdp`, which is always the model width D. All other
# arrays (biases, norms, cls tokens: below 0.2 % of a model) are replicated, and so are arrays whose
# axis is not divisible by fsdp. Optimizer moments and EMA weights are sharded like the parameters.
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
  """Returns the key of RULES that matches a path such as 'params/head/kernel', or None."""
  return next((rule for rule in RULES if re.search(f'(^|/){rule}$', path)), None)


def split_axis(path: str, shape: tuple[int, ...], fsdp: int) -> int | None:
  """Returns the axis along which an array of the training state is sharded, or None.

  Args:
    path: path in the training state.
    shape: global shape of the array.
    fsdp: number of devices along the fsdp axis of the mesh.
  """
  rule = rule_of(path)
  if fsdp == 1 or rule is None or shape[RULES[rule]] % fsdp:
    return None
  return RULES[rule] % len(shape)
