# SPDX-License-Identifier: Apache-2.0
"""Builder for ONNX graphs: adds nodes and constants, and tracks that all parameters are used."""

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from vivit_jax.weights.readers import Flat

OPSET = 20  # the first with Gelu


class Graph:
  """Builds a graph; values are named after the node that computes them.

  Attributes:
    nodes, constants: nodes and constants added so far.
  """

  def __init__(self, params: Flat):
    """Takes the parameters, '/'-joined name -> float32 array."""
    self.nodes: list[NodeProto] = []
    self.constants: list[TensorProto] = []
    self._params = dict(params)

  def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds an operation and returns the name of its result."""
    name = f'{kind}_{len(self.nodes)}'
    self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
    return name

  def constant(self, value: Any, name: str | None = None) -> str:
    """Adds an array and returns its name."""
    name = name or f'constant_{len(self.constants)}'
    # Not ascontiguousarray, which turns a scalar into an array of shape [1].
    self.constants.append(numpy_helper.from_array(np.array(value, order='C'), name))
    return name

  def integers(self, *values: int) -> str:
    """Adds a list of integers, e.g. a shape or axes."""
    return self.constant(np.array(values, np.int64))

  def param(self, name: str, shape: tuple[int, ...] | None = None) -> str:
    """Adds a parameter, optionally reshaped, and returns its name."""
    value = self._params.pop(name)
    return self.constant(value if shape is None else value.reshape(shape), name)

  @property
  def unused(self) -> list[str]:
    """Names of the parameters that are not used by any operation."""
    return sorted(self._params)

  def reshape(self, x: str, *shape: int) -> str:
    """Adds a reshape; -1 is the batch axis."""
    return self.node('Reshape', x, self.integers(*shape))

  def dense(self, x: str, name: str, inputs: int, outputs: int) -> str:
    """Adds a linear layer; input and output axes of its kernel may be split into several."""
    kernel = self.param(f'{name}/kernel', (inputs, outputs))
    return self.node('Add', self.node('MatMul', x, kernel), self.param(f'{name}/bias', (outputs,)))
