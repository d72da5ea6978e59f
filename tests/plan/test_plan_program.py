# SPDX-License-Identifier: Apache-2.0
"""What a compiled program costs is read off its text: products, attention, loops, collectives."""

import jax
import jax.numpy as jnp
import pytest

from vivit_jax.config.schema import Config, Train
from vivit_jax.plan.program import Array, Program
from vivit_jax.plan.roofline import roofline, seconds, useful_flops
from vivit_jax.plan.targets import ATTENTION_FLOPS, TARGETS

HEADER = 'HloModule m\n\n'
GATHER = """
%fused (p: f32[8,4]) -> f32[64,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %g = f32[64,4]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}

%fused.1 (p.1: f32[8,4]) -> f32[64,4] {
  %p.1 = f32[8,4]{1,0} parameter(0)
  ROOT %g.1 = f32[64,4]{1,0} all-gather(%p.1), channel_id=7, dimensions={0}
}

ENTRY %main (a: f32[8,4]) -> f32[64,4] {
  %a = f32[8,4]{1,0} parameter(0)
  %f = f32[64,4]{1,0} fusion(%a), kind=kCustom, calls=%fused
  %s = ((f32[8,4], bf16[2]), (f32[64,4], bf16[16])) all-gather-start(%a, %b), channel_id=8
  %b = bf16[2]{0} parameter(1)
  %r = ((f32[64,4]{1,0}), f32[8,4]{1,0}) reduce-scatter-start(%f), channel_id=9
  ROOT %h = f32[64,4]{1,0} fusion(%a), kind=kCustom, calls=%fused.1
}
"""
CUDNN = """
ENTRY %main (q: bf16[2,200,12,64]) -> bf16[2,12,200,64] {
  %q = bf16[2,200,12,64]{3,2,1,0} parameter(0)
  %k = bf16[2,200,12,64]{3,2,1,0} parameter(1)
  ROOT %o = (bf16[2,12,200,64], f32[2,12,200], u8[9]) custom-call(%q, %k, %k), TARGET
}
""".replace('TARGET', 'custom_call_target="__cudnn$fmhaSoftmax"')


SPLASH = """
ENTRY %main (m: s8[1,5,5]) -> f32[4] {
  %m = s8[1,5,5]{2,1,0} parameter(0)
  %q = bf16[24,3200,64]{2,1,0} parameter(1)
  %k = bf16[24,1600,64]{2,1,0} parameter(2)
  %splash_mha_fwd_segmented_residuals.1 = (bf16[24,3200,64], f32[24,3200,128]) CALL
  %splash_mha_dq_segmented_no_residuals.1 = (f32[640,64], bf16[24,3200,64]) CALL
  ROOT %splash_mha_dkv_segmented_no_residuals.1 = (bf16[24,1600,64], bf16[24,1600,64]) CALL
}
""".replace(
  'CALL', 'custom-call(%m, %m, %q, %k, /*index=4*/%k), custom_call_target="tpu_custom_call"'
)


def test_splash_is_counted_by_formula():
  # Forwards two products; backwards each of two kernels computes weights and their gradient anew.
  product = 2 * 24 * 3200 * 1600 * 64
  counted = [kernel.flops for kernel in Program(HEADER + SPLASH).kernels()]
  assert counted == [2 * product, 3 * product, 4 * product]


def test_a_pipelined_gather_counts_once_and_others_whole():
  assert sorted(Program(HEADER + GATHER).collectives()) == [
    ('all-gather', 64 * 4 * 4, 1),
    ('all-gather', 64 * 4 * 4 + 2 * 16, 1),
    ('reduce-scatter', 64 * 4 * 4, 1),
  ]


def test_cudnn_is_counted_by_formula_and_scratch_not_at_all():
  (kernel,) = Program(HEADER + CUDNN).kernels()
  assert kernel.flops == 4 * 2 * 12 * 200**2 * 64
  assert kernel.bytes == 2 * 2 * 200 * 12 * 64 * 3 + 4 * 2 * 12 * 200
  assert seconds(kernel, TARGETS['h100']) == pytest.approx(
    max(kernel.flops / ATTENTION_FLOPS[False], kernel.bytes / 3.0e12)
  )


def test_tiles_are_padded_and_vector_memory_is_free():
  assert Array('bf16', (4, 100, 64), '2,1,0:T(8,128)(2,1)').bytes == 2 * 4 * 104 * 128
  assert Array('bf16', (4, 100, 64), '2,1,0:T(8,128)S(1)').bytes == 0
  assert Array('f32', (5,)).bytes == 20


@pytest.mark.parametrize('layers', [1, 6])
def test_products_of_a_real_program_are_counted_in_loops_too(layers):
  def forward(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  shapes = (
    jax.ShapeDtypeStruct((64, 32), jnp.float32),
    jax.ShapeDtypeStruct((layers, 32, 32), jnp.float32),
  )
  compiled = jax.jit(forward).lower(*shapes).compile()
  useful = 2.0 * 64 * 32 * 32 * layers
  found = roofline(compiled.as_text(), TARGETS['h100'], useful, 1, 0)
  assert found.flops == useful
  assert found.conditionals == 0
  assert 0 < found.percent_of_peak < 100
  assert len(found.dearest) <= 10


def test_branches_are_counted():
  def either(flag, x):
    return jax.lax.cond(flag, lambda x: x @ x, lambda x: x, x)

  shapes = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((16, 16), jnp.float32)
  program = Program(jax.jit(either).lower(*shapes).compile().as_text())
  assert program.conditionals == 1
  assert sum(kernel.flops for kernel in program.kernels()) == 2 * 16**3


def test_a_frozen_encoder_has_no_useful_backward_pass():
  whole = useful_flops(Config(train=Train(batch_size=2)))
  frozen = useful_flops(Config(train=Train(batch_size=2, freeze=('spacetime/*',))))
  assert frozen == pytest.approx(whole / 3)
