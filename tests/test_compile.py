"""The operator inside torch's machinery: opcheck, whole-graph compilation, dynamic batches."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import geoattn as ga
from geoattn.functional import attention

GRID = ga.grids.gaussian(6, 8)
PATTERNS = {"disc": lambda: ga.geodesic(GRID, radius=40.0), "everything": lambda: ga.everything(GRID)}


def operands(batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, 6, 8, 4, 8), (batch, 6, 8, 2, 8), (batch, 6, 8, 2, 5)
    return [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_op_passes_opcheck(pattern, with_bias):
    hood = PATTERNS[pattern]()
    q, k, v = (x.detach().flatten(1, 2).requires_grad_() for x in operands())
    bias = torch.randn(2, 48, requires_grad=True) if with_bias else None
    arguments = (q, k, v, bias, None, None, None, hood.digest, None, 0.3, True, None)
    torch.library.opcheck(torch.ops.geoattn.attention.default, arguments)
    out, lse = (x.detach() for x in torch.ops.geoattn.attention(*arguments))
    tensors = (None if x is None else x.detach() for x in arguments[:7])
    arguments = (*tensors, out, lse, *arguments[7:])
    torch.library.opcheck(
        torch.ops.geoattn.attention_backward.default,
        (torch.randn_like(out), torch.randn_like(lse), *arguments, [with_bias, False, False]),
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_one_graph_holds_forward_and_backward_for_any_batch(pattern):
    hood = PATTERNS[pattern]()
    bias = torch.randn(6, 8, requires_grad=True)
    mask = torch.rand(6, 8) < 0.8

    def loss(q, k, v):
        out, lse = attention(q * 1.5, k, v, hood, key_bias=bias, key_mask=mask, return_lse=True)
        return out.square().sum() + lse.sum()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
    for batch in (7, 3, 11):  # equal to no other axis, or torch takes the two for one
        leaves = operands(batch)
        found, expected = compiled(*leaves), loss(*leaves)
        torch.testing.assert_close(found, expected)
        for a, b in zip(
            torch.autograd.grad(found, [*leaves, bias]),
            torch.autograd.grad(expected, [*leaves, bias]),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


def test_inductor_compiles_the_operator_among_other_work():
    hood = PATTERNS["disc"]()
    leaves = operands()
    compiled = torch.compile(lambda q, k, v: attention(q.sin(), k, v, hood).cos().sum(), fullgraph=True)
    expected = attention(leaves[0].sin(), *leaves[1:], hood).cos().sum()
    torch.testing.assert_close(compiled(*leaves), expected)
    for a, b in zip(
        torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_compiled_program_serves_each_neighborhood_its_own_graph():
    compiled = torch.compile(lambda q, k, v, hood: attention(q, k, v, hood), fullgraph=True, backend="eager")
    leaves = operands()
    for radius in (20.0, 40.0, 80.0):
        hood = ga.geodesic(GRID, radius=radius)
        torch.testing.assert_close(compiled(*leaves, hood), attention(*leaves, hood))


def test_a_compiled_program_keeps_its_neighborhood():
    def compile_and_run(leaves):
        hood = ga.from_edges(GRID, GRID, np.arange(49), np.roll(np.arange(48), 5))
        compiled = torch.compile(
            lambda q, k, v: attention(q, k, v, hood), fullgraph=True, backend="aot_eager"
        )
        return compiled(*leaves)

    leaves = operands()
    out = compile_and_run(leaves)
    gc.collect()
    assert torch.autograd.grad(out.sum(), leaves[2])[0].isfinite().all()


def test_second_derivatives_of_a_compiled_program_are_refused_by_torch():
    hood = PATTERNS["disc"]()
    leaves = operands()
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, hood), fullgraph=True, backend="aot_eager")
    (gradient,) = torch.autograd.grad(compiled(*leaves).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(gradient.sum(), leaves[0])


def test_a_forgotten_neighborhood_is_named():
    with pytest.raises(LookupError, match=r"no neighborhood with digest beef… is alive; keep a reference"):
        torch.ops.geoattn.attention(
            *(torch.zeros(1, 1, 1, 1),) * 3, *(None,) * 4, "beef", None, 1.0, True, None
        )
