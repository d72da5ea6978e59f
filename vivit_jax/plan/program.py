# SPDX-License-Identifier: Apache-2.0
"""Analyzes the optimized HLO text of a compiled program: kernels, work, collectives."""

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator

BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4,
  'f32': 4, 's64': 8, 'u64': 8, 'f64': 8,
}  # fmt: skip
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

# Instructions that move no bytes.
_FREE = {
  'parameter', 'tuple', 'get-tuple-element', 'bitcast', 'constant', 'after-all', 'partition-id',
  'replica-id', 'opt-barrier', 'iota', 'add-dependency', 'async-start', 'async-update',
}  # fmt: skip
_ARRAY = re.compile(r'(\w+)\[([\d,]*)\](?:\{([^}]*)\})?')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(')
_CALLED = re.compile(r'(?:calls|to_apply|body|condition|\w+_computation)=%?([\w.\-]+)')
_SLICES = ('dynamic-slice', 'slice', 'gather')
# Products of queries' and keys' size of JAX's attention for TPUs, which states no cost itself.
_SPLASH = {'fwd': 2, 'dq': 3, 'dkv': 4}


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel launch on the device, or several equal ones.

  Attributes:
    name: name of the instruction.
    kind: its operation, or the target of a custom call.
    scope: scope in the model, as a flax module path.
    times: number of launches per call of the program.
    flops: total FLOPs of matrix products and attention.
    bytes: total bytes read and written in device memory, with padded tiles.
    cycles: total cycles estimated by the TPU compiler; 0 on other devices.
  """

  name: str
  kind: str
  scope: str
  times: int
  flops: float
  bytes: int
  cycles: int


@dataclasses.dataclass(frozen=True)
class Array:
  """Type and layout of an array."""

  kind: str
  shape: tuple[int, ...]
  layout: str = ''

  @property
  def plain_bytes(self) -> int:
    """Bytes without padding."""
    return BYTES.get(self.kind, 0) * math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Bytes in device memory with padded TPU tiles; 0 for arrays in vector memory."""
    if re.search(r'S\([1-9]\)', self.layout):
      return 0
    sizes = list(self.shape)
    tile = re.search(r'T\((\d+)(?:,(\d+))?\)', self.layout)
    order = [int(axis) for axis in re.findall(r'\d+', self.layout.partition(':')[0])]
    if tile:
      for axis, size in zip(order, [int(n) for n in reversed(tile.groups()) if n], strict=False):
        sizes[axis] += -sizes[axis] % size
    return BYTES.get(self.kind, 0) * math.prod(sizes)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """A line of HLO."""

  name: str
  operation: str
  arrays: tuple[Array, ...]  # results
  operands: tuple[str, ...]
  line: str
  root: bool

  @property
  def bytes(self) -> int:
    """Bytes of the result."""
    return sum(array.bytes for array in self.arrays)

  def find(self, pattern: str, default: str = '') -> str:
    """Returns the first group of a pattern in the line."""
    match = re.search(pattern, self.line)
    return match[1] if match else default

  @functools.cached_property
  def called(self) -> list[str]:
    """Names of the computations that it calls."""
    branches = self.find(r'branch_computations=\{([^}]*)\}')
    return _CALLED.findall(self.line) + re.findall(r'%?([\w.\-]+)', branches)


Computation = dict[str, Instruction]


class Program:
  """An optimized HLO module."""

  def __init__(self, text: str):
    """Reads the text of a compiled program (`compiled.as_text()`)."""
    self.computations: dict[str, Computation] = {}
    self.entry = ''
    current: Computation = {}
    for line in text.splitlines():
      if header := re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line):
        current = self.computations[header[2]] = {}
        self.entry = header[2] if header[1] else self.entry
      elif match := _INSTRUCTION.match(line):
        operands = _arguments(line[match.end() :])
        current[match[2]] = Instruction(
          match[2], match[4], tuple(_arrays(match[3])), operands, line, bool(match[1])
        )

  @property
  def conditionals(self) -> int:
    """Number of conditionals."""
    everything = itertools.chain(*(c.values() for c in self.computations.values()))
    return sum(instruction.operation == 'conditional' for instruction in everything)

  def kernels(self) -> list[Kernel]:
    """Returns the kernels of one call, with loops unrolled."""
    return list(self._kernels(self.entry, 1))

  def collectives(self) -> list[tuple[str, int, int]]:
    """Returns (kind, bytes of the global array, times) of the collectives.

    A pipelined collective occurs in several fusions with the same channel and counts once.
    """
    found: dict[str, tuple[str, int, int]] = {}
    for name, computation, times in self._executed(self.entry, 1):
      for one in computation.values():
        kind = next((k for k in COLLECTIVES if one.operation in (k, f'{k}-start')), None)
        if kind is None:
          continue
        given = [computation[operand] for operand in one.operands if operand in computation]
        sent = sum(array.plain_bytes for operand in given for array in operand.arrays)
        size = sum(array.plain_bytes for array in one.arrays)
        if one.operation.endswith('-start'):
          size -= sent * (kind in ('all-gather', 'reduce-scatter', 'collective-permute'))
        if kind == 'reduce-scatter':
          size = sent
        elif 'scatter' in name:  # a fusion named after it, on TPUs
          kind = 'reduce-scatter'
        found[one.find(r'channel_id=(\d+)', f'{name}/{one.name}')] = kind, size, times
    return list(found.values())

  def _executed(self, name: str, times: int) -> Iterator[tuple[str, Computation, int]]:
    """Yields each executed computation and its number of executions."""
    computation = self.computations.get(name, {})
    yield name, computation, times
    for one in computation.values():
      many = int(one.find(r'"known_trip_count":\{"n":"(\d+)"', '1'))
      for called in one.called:
        yield from self._executed(called, times * (many if one.operation == 'while' else 1))

  def _kernels(self, name: str, times: int) -> Iterator[Kernel]:
    computation = self.computations[name]
    for one in computation.values():
      if one.operation in _FREE or one.operation.endswith('-done'):
        continue
      if one.operation == 'while':
        many = int(one.find(r'"known_trip_count":\{"n":"(\d+)"', '1'))
        yield from self._kernels(one.find(r'body=%?([\w.\-]+)'), times * many)
      elif one.operation == 'call':
        yield from self._kernels(one.called[0], times)
      elif one.operation == 'conditional':
        branches = [list(self._kernels(called, times)) for called in one.called]
        yield from max(branches, key=lambda rows: sum(row.bytes for row in rows))
      else:
        yield Kernel(
          one.name,
          one.find(r'custom_call_target="([^"]*)"', one.operation),
          one.find(r'op_name="([^"]*)"'),
          times,
          times * self._flops(one, computation),
          times * self._bytes(one, computation),
          times * int(one.find(r'"estimated_cycles":"(\d+)"', '0')),
        )

  def _flops(self, one: Instruction, computation: Computation) -> float:
    """Returns FLOPs of an instruction's matrix products, including called computations."""
    shapes = [computation[o].arrays[0].shape for o in one.operands if o in computation]
    if one.operation == 'dot':
      axes = one.find(r'lhs_contracting_dims=\{([\d,]*)\}')
      return 2.0 * math.prod(one.arrays[0].shape) * _product(shapes[0], axes)
    if one.operation == 'convolution':
      return _convolution(one, shapes)
    if one.operation == 'custom-call':
      target = one.find(r'custom_call_target="([^"]*)"')
      if 'cublas' in target:
        axes = one.find(r'"lhs_contracting_dimensions":\[([^\]]*)\]').replace('"', '')
        return 2.0 * math.prod(one.arrays[0].shape) * _product(shapes[0], axes)
      if 'fmha' in target:  # [batch, tokens, heads, dim]: 2 products forward, 5 backward
        return (10.0 if 'Backward' in target else 4.0) * math.prod(shapes[0]) * shapes[1][1]
      if splash := re.match(r'splash_mha_(fwd|dq|dkv)', one.name):  # masks, then queries and keys
        return 2.0 * _SPLASH[splash[1]] * math.prod(shapes[2]) * shapes[3][-2]
      return float(one.find(r'"cost_estimate":\{"flops":"?(\d+)', '0'))  # of our Pallas kernels
    if one.operation in ('fusion', 'call', 'async-start'):
      called = self.computations[one.called[0]]
      return sum((self._flops(inner, called) for inner in called.values()), start=0.0)
    return 0.0

  def _bytes(self, one: Instruction, computation: Computation) -> int:
    """Returns the bytes that an instruction reads and writes."""
    read = {name: computation[name].bytes for name in one.operands if name in computation}
    if one.operation in ('slice', 'dynamic-slice'):
      return 2 * one.bytes
    if one.operation == 'dynamic-update-slice':
      return 2 * read.get(one.operands[1], 0)
    if one.operation in ('copy-start', 'slice-start', 'dynamic-slice-start'):
      return sum(array.bytes for array in one.arrays[:2])
    if one.operation == 'custom-call' and one.arrays[-1].kind in ('s8', 'u8'):
      return sum(read.values()) + sum(array.bytes for array in one.arrays[:-1])  # no scratch
    if one.operation != 'fusion':
      return sum(read.values()) + one.bytes
    inner = self.computations[one.called[0]]
    parameters = {
      one.operands[int(p.find(r'parameter\((\d+)\)'))]: p.name
      for p in inner.values()
      if p.operation == 'parameter'
    }
    for name, parameter in parameters.items():
      users = [user for user in inner.values() if parameter in user.operands]
      if users and all(u.operation in _SLICES and u.operands[0] == parameter for u in users):
        read[name] = min(read.get(name, 0), sum(user.bytes for user in users))
      elif users and all(
        u.operation == 'dynamic-update-slice' and u.operands[0] == parameter for u in users
      ):
        read[name] = 0
    root = next(i for i in inner.values() if i.root)
    while root.operation in ('bitcast', 'copy') and root.operands[0] in inner:
      root = inner[root.operands[0]]
    written = one.bytes
    if root.operation == 'dynamic-update-slice':
      written = min(written, inner[root.operands[1]].bytes)
    return sum(read.values()) + written


def _arrays(text: str) -> Iterator[Array]:
  for kind, shape, layout in _ARRAY.findall(text):
    if kind in BYTES:
      yield Array(kind, tuple(int(n) for n in shape.split(',') if n), layout)


def _arguments(text: str) -> tuple[str, ...]:
  """Returns the argument names up to the closing parenthesis."""
  depth = 1
  for place, char in enumerate(text):
    depth += (char == '(') - (char == ')')
    if depth == 0:
      return tuple(re.findall(r'%([\w.\-]+)', text[:place]))
  return ()


def _product(shape: tuple[int, ...], axes: str) -> int:
  return math.prod(shape[int(axis)] for axis in axes.split(',') if axis.strip())


def _convolution(one: Instruction, shapes: list[tuple[int, ...]]) -> float:
  """Returns FLOPs of a convolution (TPUs write matrix products as such), without padding taps."""
  left, right, out = one.find(r'dim_labels=(\S+?)[,\s]').replace('->', '_').split('_')
  taps = 1.0
  window = one.find(r'window=\{([^}]*)\}')

  def sizes(name: str, default: str) -> list[str]:
    match = re.search(rf'{name}=([\d_x\-]+)', window)
    return match[1].split('x') if match else [default] * len(re.findall(r'\d', right))

  rows = zip(
    *(sizes(*pair) for pair in (
      ('size', '1'), ('stride', '1'), ('pad', '0_0'), ('lhs_dilate', '1'), ('rhs_dilate', '1')
    )),
    strict=True,
  )  # fmt: skip
  for axis, (size, stride, pad, spread, reach) in enumerate(rows):
    outputs = one.arrays[0].shape[out.index(str(axis))]
    inputs = shapes[0][left.index(str(axis))]
    places = (
      y * int(stride) + w * int(reach) - int(pad.split('_')[0])
      for y in range(outputs)
      for w in range(int(size))
    )
    valid = sum(p >= 0 and p % int(spread) == 0 and p // int(spread) < inputs for p in places)
    taps *= valid / max(outputs, 1)
  return 2.0 * math.prod(one.arrays[0].shape) * shapes[1][right.index('i')] * taps
