"""Calls whose form a neighborhood keeps: as the first, bit for bit, and with nothing of an earlier one."""

from __future__ import annotations

import gc
import itertools
import pickle
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import geoattn as ga
from geoattn import calls
from geoattn.backends.cpu import passes
from geoattn.backends.cpu.backend import Cpu
from geoattn.backends.reference import Reference

GRID = ga.grids.gaussian(6, 12)


def disc() -> ga.neighborhoods.Neighborhood:
    """A disc of its own for each test, as forms are kept by the object."""
    return ga.geodesic(GRID, radius=40.0)


def operands(
    seed: int = 0,
    batch: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    dim: int = 8,
    dim_v: int = 12,
    **options: Any,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((heads, dim), (kv_heads, dim), (kv_heads, dim_v))
    return [torch.randn(batch, *GRID.shape, *size, generator=generator, **options) for size in sizes]


def kept(hood: Any) -> int:
    return sum(form is not None for form in vars(hood).get("_kept_calls", {}).values())


def passes_of(hood: Any, leaves: list[Tensor], grad: Tensor | None = None, **options: Any) -> list[Tensor]:
    """out, lse and the gradients of q, k and v."""
    leaves = [x.detach().requires_grad_() for x in leaves]
    out, lse = ga.attention(*leaves, hood, return_lse=True, **options)
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape) if grad is None else grad
    return [out, lse, *torch.autograd.grad((out, lse), leaves, (grad, lse.detach().sin()))]


def same(found: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key_weights", ["quadrature", None])
def test_kept_calls_are_those_of_the_first(dtype: torch.dtype, key_weights: str | None) -> None:
    hood, options = disc(), {"backend": "cpu", "key_weights": key_weights}
    given = [operands(seed, dtype=dtype) for seed in range(3)]
    right = []
    for leaves in given:
        right.append(passes_of(hood, leaves, **options))
        calls.forget()
    passes_of(hood, given[0], **options)
    assert kept(hood) == 1
    for leaves, expected in zip(given, right, strict=True):
        found = passes_of(hood, leaves, **options)
        assert same(found, expected)
        assert [x.stride() for x in found] == [x.stride() for x in expected]
        with torch.no_grad():
            assert torch.equal(ga.attention(*leaves, hood, **options), expected[0])
    assert kept(hood) == 1
    assert not same(right[0], right[1])


def test_each_form_is_kept_for_itself() -> None:
    hood = disc()
    q, k, v = operands()
    fused = torch.randn(2, *GRID.shape, 2, 8 + 12)
    first_heads = [x.transpose(-2, -3).contiguous().transpose(-2, -3) for x in (q, k, v)]
    variants: list[tuple[list[Tensor], dict[str, Any]]] = [
        ([q, k, v], {}),
        ([q, k, v], {"scale": 0.3}),
        ([q, k, v], {"key_weights": None}),
        ([q, k, v], {"backend": "reference"}),
        ([x[:1] for x in (q, k, v)], {}),
        ([x.double() for x in (q, k, v)], {}),
        ([q, fused[..., :8], fused[..., 8:]], {}),
        ([q, k[:1].expand_as(k), v], {}),
        ([q[:, :, :, :2], k, v], {}),
        (first_heads, {}),
    ]
    right = [passes_of(disc(), leaves, **options) for leaves, options in variants]
    for _ in range(2):
        for (leaves, options), expected in zip(variants, right, strict=True):
            for found, x in zip(passes_of(hood, leaves, **options), expected, strict=True):
                torch.testing.assert_close(found, x, rtol=0, atol=0)


def test_gradients_of_any_strides() -> None:
    hood, leaves = disc(), operands()
    out, *_ = passes_of(hood, leaves)
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn(out.shape, generator=generator)
    several = [
        dense,
        dense.transpose(1, 2).contiguous().transpose(1, 2),
        torch.ones(()).expand_as(out),
        torch.cat([dense, dense], -1)[..., : out.shape[-1]],
        torch.randn(2, 1, 1, 1, 12, generator=generator).expand_as(out),
    ]
    for _, grad in itertools.product(range(2), several):
        calls.forget()
        right = passes_of(hood, leaves, grad.contiguous())
        for _ in range(2):
            for found, x in zip(passes_of(hood, leaves, grad), right, strict=True):
                torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_a_gradient_of_lse_alone_and_of_out_alone() -> None:
    hood, leaves = disc(), [x.requires_grad_() for x in operands(dtype=torch.float64)]
    for _ in range(2):
        out, lse = ga.attention(*leaves, hood, return_lse=True)
        true_out, true_lse = ga.attention(*leaves, hood, return_lse=True, backend="reference")
        for found, right in ((out, true_out), (lse, true_lse)):
            expected = torch.autograd.grad(right.sin().sum(), leaves, retain_graph=True, allow_unused=True)
            of = torch.autograd.grad(found.sin().sum(), leaves, retain_graph=True, allow_unused=True)
            for a, b in zip(of, expected, strict=True):
                torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_derivatives_of_kept_calls_are_differentiable() -> None:
    hood = ga.window(ga.grids.cartesian((3, 4)), 3)
    leaves = [torch.randn(1, 3, 4, 1, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ga.attention(*leaves, hood, backend="cpu")
    assert kept(hood)
    for return_lse in (False, True):

        def of(*x: Tensor, return_lse: bool = return_lse) -> Any:
            return ga.attention(*x, hood, return_lse=return_lse, backend="cpu")

        assert torch.autograd.gradcheck(of, leaves)
        assert torch.autograd.gradgradcheck(of, leaves)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_a_call_saves_is_saved_again(backend: str) -> None:
    """Checkpointing compares the tensors that the first pass saves with those of the second."""
    hood, leaves = disc(), [x.requires_grad_() for x in operands()]
    right = torch.autograd.grad(ga.attention(*leaves, disc(), backend=backend).sin().sum(), leaves)

    def attend(*x: Tensor) -> Tensor:
        return ga.attention(*x, hood, backend=backend).sin()

    for meanwhile in (lambda: None, calls.forget, ga.plans.clear):
        out = checkpoint(attend, *leaves, use_reentrant=False)
        meanwhile()
        found = torch.autograd.grad(out.sum(), leaves)
        assert all(map(torch.equal, found, right))


def test_transforms_go_past_what_is_kept() -> None:
    hood = disc()
    q, k, v = operands(dtype=torch.float64)

    def loss(q: Tensor) -> Tensor:
        return ga.attention(q, k, v, hood, backend="cpu").sin().sum()

    for _ in range(2):  # kept from the first on
        leaf = q.clone().requires_grad_()
        (right,) = torch.autograd.grad(loss(leaf), leaf)
    assert kept(hood)
    torch.testing.assert_close(torch.func.grad(loss)(q), right)
    each = torch.func.vmap(lambda q: ga.attention(q, k, v, hood, backend="cpu"))(torch.stack([q, 2 * q]))
    torch.testing.assert_close(each[1], ga.attention(2 * q, k, v, hood, backend="cpu"))
    leaf = q.clone().requires_grad_()
    out = ga.attention(leaf, k, v, hood, backend="cpu")
    two = torch.stack([torch.ones_like(out), out.detach()])
    (batched,) = torch.autograd.grad(out, leaf, two, is_grads_batched=True, retain_graph=True)
    for found, grad in zip(batched, two, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(out, leaf, grad, retain_graph=True)[0])
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(NotImplementedError, match="no forward-mode derivative"),
    ):
        ga.attention(torch.autograd.forward_ad.make_dual(q, q), k, v, hood, backend="cpu")


def test_wrong_arguments_are_refused_as_before() -> None:
    hood = disc()
    q, k, v = operands()
    for _ in range(2):
        ga.attention(q, k, v, hood, backend="cpu", scale=1.0)
    with pytest.raises(TypeError, match="scale must be a number"):
        ga.attention(q, k, v, hood, backend="cpu", scale=True)
    with pytest.raises(TypeError, match="backend must be a name"):
        ga.attention(q, k, v, hood, backend=["cpu"])  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="k must be"):
        ga.attention(q, k[:, 1:], v, hood, backend="cpu", scale=1.0)
    with pytest.raises(TypeError, match="one dtype"):
        ga.attention(q, k.double(), v, hood, backend="cpu", scale=1.0)
    with pytest.raises(TypeError, match="v must be a torch tensor"):
        ga.attention(q, k, v.numpy(), hood, backend="cpu", scale=1.0)  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="cannot run this call"):
        ga.attention(q, k, v, hood, backend="sdpa", scale=1.0)


def test_the_backend_that_ran_is_known() -> None:
    hood, leaves = disc(), operands()
    for name in ("cpu", "reference", "cpu", "reference"):
        ga.attention(*leaves, hood, backend=name)
        assert ga.backends.last() == name


def test_another_number_of_threads_is_another_pass() -> None:
    hood, leaves = ga.window(ga.grids.cartesian((64, 64)), 7), [torch.randn(1, 64, 64, 4, 16)] * 3
    before, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 1, 3):
            torch.set_num_threads(n)
            found.append(passes_of(hood, leaves, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert all(same(x, found[0]) for x in found)


class _Doubled(Reference):
    name = "doubled"

    def forward(self, *arguments: Any) -> Any:
        found = super().forward(*arguments)
        return found._replace(out=2 * found.out)


def test_a_backend_that_is_registered_later_comes_first() -> None:
    hood, leaves = disc(), operands()
    right = ga.attention(*leaves, hood)
    assert kept(hood)
    ga.backends.register("doubled", _Doubled, devices=("cpu",), before="sdpa")
    try:
        assert kept(hood) == 0
        torch.testing.assert_close(ga.attention(*leaves, hood), 2 * right)
    finally:
        ga.backends.register("doubled", _Doubled, devices=())
    assert torch.equal(ga.attention(*leaves, hood), right)


class _Logged(Cpu):
    name = "logged"
    passes = 0

    def forward(self, *arguments: Any) -> Any:
        type(self).passes += 1
        return super().forward(*arguments)


def test_a_backend_that_extends_the_passes_of_another_keeps_them() -> None:
    hood, leaves = disc(), operands()
    ga.backends.register("logged", _Logged)
    for n in range(3):
        assert _Logged.passes == n
        ga.attention(*leaves, hood, backend="logged")
    assert kept(hood) == 0


def test_cleared_plans_are_made_anew() -> None:
    hood, leaves = disc(), operands()
    right = passes_of(hood, leaves, backend="cpu")
    ga.plans.clear()
    assert kept(hood) == 0
    for _ in range(2):
        assert same(passes_of(hood, leaves, backend="cpu"), right)


def test_a_plan_that_made_room_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    hood, leaves = disc(), operands()
    right = passes_of(hood, leaves, backend="cpu")
    from geoattn.plans import cache

    monkeypatch.setattr(cache._held, "max_bytes", 1)
    for size in (3, 5):
        ga.plans.lane_plan(ga.window(ga.grids.cartesian(64), size))
    gc.collect()
    assert same(passes_of(hood, leaves, backend="cpu"), right)


def test_what_is_kept_goes_with_the_neighborhood() -> None:
    hood = disc()
    passes_of(hood, operands())
    assert kept(hood)
    assert kept(pickle.loads(pickle.dumps(hood))) == 0
    known = weakref.ref(hood)
    gc.disable()  # it is in no circle
    try:
        del hood
        assert known() is None
    finally:
        gc.enable()


def test_a_neighborhood_keeps_some_forms_and_begins_anew_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MOST_KEPT", 2)
    hood = disc()
    for batch in (1, 2, 3):
        ga.attention(*operands(batch=batch), hood, backend="cpu")
    assert kept(hood) == 1


def test_scores_too_large_for_the_kernels_go_to_the_reference() -> None:
    hood, (q, k, v) = disc(), operands()
    large = torch.full_like(q, 5e18), torch.full_like(k, 5e18), v  # in units of log 2, 85 % of the largest
    ga.attention(q, k, v, hood, scale=1.0, backend="cpu")
    found = ga.attention(*large, hood, scale=1.0, backend="cpu")
    assert found.isfinite().all()
    torch.testing.assert_close(found, ga.attention(*large, hood, scale=1.0, backend="reference"))


def test_a_kernel_without_room_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = operands()
    enormous = passes.forward_layout(4, 16, 16, 1, 8, 0)._replace(size=1 << 60)
    monkeypatch.setattr(passes, "forward_layout", lambda *of: enormous)
    with pytest.raises(MemoryError):
        ga.attention(*leaves, disc(), backend="cpu")


def test_half_precision_and_other_options_are_not_kept() -> None:
    hood = disc()
    q, k, v = operands()
    ga.attention(*(x.bfloat16() for x in (q, k, v)), hood, backend="cpu")
    ga.attention(q, k, v, hood, backend="reference")
    ga.attention(q, k, v, hood, key_mask=torch.ones(GRID.shape, dtype=torch.bool), backend="cpu")
    ga.attention(q, k, v, hood, scale=torch.tensor(1.0), backend="cpu")
    assert kept(hood) == 0
