"""The factor of the dot products as a tensor: one number or one per head, differentiable, everywhere."""

from __future__ import annotations

import shutil

import emulator
import numpy as np
import pytest
import torch
from torch._dynamo import reset
from torch.nn.attention.flex_attention import flex_attention

import geoattn as ga
from geoattn.backends import flex
from geoattn.testing import oracle

GRID = ga.grids.gaussian(6, 8)
HOODS = {"disc": lambda: ga.geodesic(GRID, radius=50.0), "everything": lambda: ga.everything(GRID)}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
#: as a learned temperature may be: of both signs, 0, one number for all
SCALES = {
    "per head": [0.3, -0.7, 0.0, 1.1],
    "one": 0.4,
    "zero": 0.0,
    "zero per head": [0.0] * 4,
    "in a row": [0.4],
}


@pytest.fixture
def emulated():
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    emulator.register()


@pytest.fixture
def traced(monkeypatch):
    """FlexAttention's path on the CPU, all of it but the kernels."""
    reset()
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *operands: None)
    backend = ga.backends.get("flex")
    compiled = torch.compile(flex_attention, backend="aot_eager", fullgraph=True, dynamic=False)
    monkeypatch.setitem(backend.__dict__, "attention", compiled)
    monkeypatch.setattr(flex.Flex, "refuses", lambda *operands: None)
    monkeypatch.setattr(flex.Flex, "unavailable", lambda self: None)
    yield
    reset()


def operands(dtype, heads=4, kv_heads=2, dim=8, dim_v=5, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, 6, 8, heads, dim), (batch, 6, 8, kv_heads, dim), (batch, 6, 8, kv_heads, dim_v)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def true(q, k, v, hood, scale, grad_out, grad_lse):
    """out, lse and the gradients of q, k, v and the scale in float64."""
    q, k, v = (x.double().flatten(1, 2).requires_grad_() for x in (q, k, v))
    scale = scale.detach().double().requires_grad_()
    weights = torch.as_tensor(np.array(hood.key_grid.weights)).flatten()
    out, lse = oracle.attention(q, k, v, oracle.edges(hood), scale=scale, weights=weights)
    upstream = grad_out.double().flatten(1, 2), grad_lse.double().flatten(1, 2)
    return out, lse, *torch.autograd.grad((out, lse), (q, k, v, scale), upstream)


def check(backend, hood, dtype, values, kv_heads=2):
    q, k, v = operands(dtype, kv_heads=kv_heads)
    generator = torch.Generator().manual_seed(7)
    grad_out = torch.randn(*q.shape[:-1], v.shape[-1], generator=generator, dtype=torch.float64).to(dtype)
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    grad_lse = torch.randn(q.shape[:-1], generator=generator, dtype=torch.float64).to(sums)
    leaves = [x.clone().requires_grad_() for x in (q, k, v, torch.tensor(values, dtype=sums))]
    out, lse = ga.attention(*leaves[:3], hood, scale=leaves[3], return_lse=True, backend=backend)
    found = out, lse, *torch.autograd.grad((out, lse), leaves, (grad_out, grad_lse))
    expected = true(q, k, v, hood, leaves[3], grad_out, grad_lse)
    names = "out", "lse", "dq", "dk", "dv", "dscale"
    for name, a, b in zip(names, found, expected, strict=True):
        error = (a.double().reshape(b.shape) - b).abs().max() / b.abs().max().clamp(min=1.0)
        assert error < TOLERANCE[dtype], f"{name} is off by {error:.1e}"
    assert ga.backends.last() == backend


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("values", SCALES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_tensor_of_scales_agrees_with_float64(backend, values, dtype):
    check(backend, HOODS["disc"](), dtype, SCALES[values])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("values", ["per head", "zero"])
def test_a_tensor_of_scales_agrees_on_the_fused_kernels(values, dtype):
    check("sdpa", HOODS["everything"](), dtype, SCALES[values])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("values", "kv_heads"), [("per head", 2), ("per head", 4), ("zero", 1)])
def test_a_tensor_of_scales_agrees_in_the_emulator(emulated, values, kv_heads, dtype):
    check("emulated", HOODS["disc"](), dtype, SCALES[values], kv_heads)


def test_slices_of_wide_heads_share_the_gradient_of_the_scale(emulated):
    line = ga.window(ga.grids.cartesian((20,)), 5)
    q, k, v = (torch.randn(1, 20, 1, 256) * 0.3 for _ in range(3))
    scale = torch.tensor(0.7, requires_grad=True)
    found, right = (
        torch.autograd.grad(ga.attention(q, k, v, line, scale=scale, backend=b).square().sum(), scale)[0]
        for b in ("emulated", "reference")
    )
    torch.testing.assert_close(found, right, rtol=1e-4, atol=0)


@pytest.mark.parametrize("values", ["per head", "zero"])
def test_a_tensor_of_scales_agrees_in_flex_attention(traced, values):
    check("flex", HOODS["disc"](), torch.float32, SCALES[values])


@pytest.mark.parametrize("pattern", HOODS)
def test_a_number_and_a_tensor_of_it_are_the_same_call(pattern):
    q, k, v = operands(torch.float32)
    hood = HOODS[pattern]()
    torch.testing.assert_close(
        ga.attention(q, k, v, hood, scale=torch.tensor(0.3)), ga.attention(q, k, v, hood, scale=0.3)
    )


@pytest.mark.parametrize("backend", ["cpu", "reference", "sdpa"])
def test_queries_in_half_precision_are_not_rounded_by_their_scale(backend):
    """The gradient of the lse gives the scores; those of a rounded product would be off by 2⁻⁹."""
    grid = ga.grids.cartesian((2,))
    q = torch.full((1, 2, 1, 1), 1.0078125, dtype=torch.bfloat16)
    k = torch.tensor([0.0, 256.0], dtype=torch.bfloat16).reshape(1, 2, 1, 1)
    scale = torch.tensor(1.00390625 - 2**-10)
    _, lse = ga.attention(q, k, k, ga.everything(grid), scale=scale, return_lse=True, backend=backend)
    torch.testing.assert_close(lse, torch.full_like(lse, (1.0078125 * scale * 256).item()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("values", ["per head", "one", "zero per head"])
@pytest.mark.parametrize("pattern", HOODS)
def test_second_derivatives_of_the_scale_agree_with_finite_differences(pattern, values):
    q, k, v = (x.requires_grad_() for x in operands(torch.float64, dim=3, dim_v=2, batch=1))
    scale = torch.tensor(SCALES[values], dtype=torch.float64, requires_grad=True)
    hood = HOODS[pattern]()

    def f(q, k, v, scale):
        return ga.attention(q, k, v, hood, scale=scale, return_lse=True)

    assert torch.autograd.gradcheck(f, (q, k, v, scale), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (q, k, v, scale), fast_mode=True)


def test_second_derivatives_hold_when_queries_depend_on_the_scale():
    x = torch.randn(1, 6, 8, 1, 2, dtype=torch.float64)
    hood = HOODS["disc"]()
    scale = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda s: ga.attention(x * s.sin(), x, x * s, hood, scale=s), (scale,)
    )


def test_gradients_of_scales_repeat_bit_for_bit():
    q, k, v = operands(torch.float32)
    scale = torch.tensor(SCALES["per head"], requires_grad=True)

    def run():
        return torch.autograd.grad(ga.attention(q, k, v, HOODS["disc"](), scale=scale).square().sum(), scale)[
            0
        ]

    assert torch.equal(run(), run())


def test_an_empty_batch_gives_a_scale_no_gradient():
    q, k, v = operands(torch.float32, batch=0)
    scale = torch.tensor(0.3, requires_grad=True)
    (gradient,) = torch.autograd.grad(ga.attention(q, k, v, HOODS["disc"](), scale=scale).sum(), scale)
    assert gradient == 0


def test_a_learned_scale_compiles_into_one_graph():
    hood = HOODS["disc"]()
    leaves = [x.requires_grad_() for x in operands(torch.float32)]
    scale = torch.tensor(SCALES["per head"], requires_grad=True)

    def f(q, k, v, scale):
        return ga.attention(q, k, v, hood, scale=scale.exp()).square().sum()

    found, expected = torch.compile(f, fullgraph=True, backend="aot_eager")(*leaves, scale), f(*leaves, scale)
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, [*leaves, scale]),
        torch.autograd.grad(expected, [*leaves, scale]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_ops_pass_opcheck_with_scales():
    hood = HOODS["disc"]()
    q, k, v = (x.flatten(1, 2).requires_grad_() for x in operands(torch.float32))
    scales = torch.tensor([SCALES["per head"]], requires_grad=True)
    arguments = (q, k, v, None, scales, None, None, hood.digest, None, 1.0, True, None)
    torch.library.opcheck(torch.ops.geoattn.attention.default, arguments)
    out, lse = (x.detach() for x in torch.ops.geoattn.attention(*arguments))
    tensors = (None if x is None else x.detach() for x in arguments[:7])
    torch.library.opcheck(
        torch.ops.geoattn.attention_backward.default,
        (torch.randn_like(out), None, *tensors, out, lse, *arguments[7:], [False, True, False]),
    )


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [
        (torch.ones(3), ValueError, r"one for each of the 4 heads, \[4\], got shape \(3,\)"),
        (torch.ones(1, 4), ValueError, r"\[4\], got shape \(1, 4\)"),
        (
            torch.ones(4, dtype=torch.int64),
            TypeError,
            r"floating point of 16 to 64 bits, got a tensor of torch.int64.*\.float\(\)",
        ),
        (torch.ones(4, device="meta"), ValueError, r"scale is on meta but q is on cpu; move it with \.to"),
        (np.ones(4), TypeError, r"must be a number, a tensor.*got ndarray; make a tensor.*torch\.as_tensor"),
        ("0.5", TypeError, r"must be a number, a tensor.*got str"),
        (True, TypeError, r"must be a number, a tensor.*got bool"),
        (1j, TypeError, r"must be a number, a tensor.*got complex"),
        (float("inf"), ValueError, r"must be a finite number, got inf"),
    ],
)
def test_scales_that_do_not_fit_are_named(scale, error, message):
    q, k, v = operands(torch.float32)
    with pytest.raises(error, match=message):
        ga.attention(q, k, v, HOODS["disc"](), scale=scale)


def test_numbers_of_numpy_are_numbers():
    q, k, v = operands(torch.float32)
    hood = HOODS["disc"]()
    for number in (np.float64(0.5), np.float32(0.5)):
        torch.testing.assert_close(
            ga.attention(q, k, v, hood, scale=number), ga.attention(q, k, v, hood, scale=0.5)
        )
