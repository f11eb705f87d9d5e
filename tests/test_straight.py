"""Eager calls go to the op's kernel without the dispatcher, except where that would do something."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

import geoattn as ga
from geoattn.backends.torch_private import goes_straight

HOOD = ga.window(ga.grids.cartesian((6, 8)), 3)


def operands(**options: Any) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 6, 8, 2, 8, **options) for _ in range(3)]


def passes(q: Tensor, k: Tensor, v: Tensor) -> None:
    out = ga.attention(*(x.detach().requires_grad_() for x in (q, k, v)), HOOD, backend="cpu")
    out.sum().backward()
    with torch.no_grad():
        ga.attention(q, k, v, HOOD, backend="cpu")


class _Dispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


class _Named(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def test_ordinary_tensors_go_straight() -> None:
    q, k, v = operands()
    assert goes_straight(q, k, torch.nn.Parameter(v))
    with torch.no_grad():
        assert goes_straight(q.requires_grad_(), k, v)
    with torch.inference_mode():
        assert goes_straight(q, k, v, torch.randn(3))
    with torch.autocast("cpu"):
        assert goes_straight(q, k, v)


def test_modes_see_the_ops() -> None:
    with _Dispatched() as mode:
        passes(*operands())
    assert mode.seen.count("geoattn.attention.default") == 2
    assert mode.seen.count("geoattn.attention_backward.default") == 1
    with _Named() as named:
        passes(*operands())
    assert named.seen.count("geoattn.attention.default") == 2


def test_a_profiler_lists_the_ops() -> None:
    passes(*operands())
    with profile() as profiled:
        passes(*operands())
    calls = {event.key: event.count for event in profiled.key_averages()}
    assert calls["geoattn::attention"] == 2
    assert calls["geoattn::attention_backward"] == 1


def test_a_pending_minus_counts() -> None:
    q, k, v = operands()
    turned = torch._neg_view(v)
    assert turned.is_neg()
    with torch.no_grad():
        out = ga.attention(q, k, turned, HOOD, backend="cpu")
        assert torch.equal(out, ga.attention(q, k, -v, HOOD, backend="cpu"))
    grad = torch.randn(1, 6, 8, 2, 8)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    found = torch.autograd.grad(ga.attention(q, k, v, HOOD, backend="cpu"), (q, k, v), torch._neg_view(grad))
    expected = torch.autograd.grad(ga.attention(q, k, v, HOOD, backend="cpu"), (q, k, v), -grad)
    assert all(map(torch.equal, found, expected))


class _Own(Tensor):
    """A class of a user's own."""


@pytest.mark.parametrize("make", [lambda x: x.as_subclass(_Own), lambda x: x.to("meta"), torch._neg_view])
def test_others_do_not(make: Any) -> None:
    q, k, v = operands()
    assert not goes_straight(q, k, make(v))


def test_a_class_of_a_users_own_stays() -> None:
    q, k, v = (x.as_subclass(_Own) for x in operands())
    with torch.no_grad():
        assert isinstance(ga.attention(q, k, v, HOOD, backend="cpu"), _Own)


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_traced_past_the_op() -> None:
    q, k, v = operands()
    traced = torch.jit.trace(lambda q, k, v: ga.attention(q, k, v, HOOD, backend="cpu"), (q, k, v))
    assert "geoattn::attention" in str(traced.graph)
    assert torch.equal(traced(v, k, q), ga.attention(v, k, q, HOOD, backend="cpu"))
