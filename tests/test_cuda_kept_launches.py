"""Launches that a plan keeps for calls of one form: nothing of an earlier call is left in a later one."""

from __future__ import annotations

import shutil

import pytest
import torch
from emulator import Emulated, register
from problems import problem, results

import geoattn as ga
from geoattn import calls
from geoattn.backends.cuda import launches
from geoattn.backends.cuda.plans import device_plan

HOOD = ga.window(ga.grids.cartesian((70,)), 9)
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def anew(case, backend, **options):
    """Results on a plan that has launched nothing."""
    device_plan(HOOD, CPU).launches.clear()
    device_plan(HOOD.transpose(), CPU).launches.clear()
    return results(case, backend, **options)


def same(found, right):
    return all(torch.equal(a, b) for a, b in zip(found, right, strict=True))


def test_calls_of_one_form_differ_in_nothing_but_their_tensors():
    shape = {"dtype": torch.float16, "dim": 16, "dim_v": 24, "heads": 2, "kv_heads": 1}
    first, second, other = (problem(HOOD, **shape, seed=s, batch=b) for s, b in ((1, 1), (2, 1), (3, 2)))
    right = [anew(case, Emulated()) for case in (first, second, other)]
    scaled = anew(first, Emulated(), scale=0.3)
    device_plan(HOOD, CPU).launches.clear()
    again = [results(case, Emulated()) for case in (first, second, other, first)]
    assert all(same(a, b) for a, b in zip(again, (*right, right[0]), strict=True))
    kept = len(device_plan(HOOD, CPU).launches)
    assert same(results(second, Emulated()), right[1])
    assert len(device_plan(HOOD, CPU).launches) == kept
    assert same(results(first, Emulated(), scale=0.3), scaled)
    assert not same(scaled, right[0])


@pytest.mark.parametrize("key_weights", ["quadrature", None])
def test_kept_calls_launch_what_others_do(key_weights):
    """Through the operator: the first call of a form and later ones, odd addresses and strides among them."""
    register()
    hood = ga.geodesic(ga.grids.gaussian(8, 16), ga.grids.gaussian(6, 12), radius=35.0)

    def passes(seed, transposed=False, shift=0):
        generator = torch.Generator().manual_seed(seed)

        def made(grid, heads, dim):
            shape = (2, *grid.shape, heads, dim)
            x = torch.randn(shape, generator=generator).to(torch.float16)
            moved = x.new_empty(x.numel() + shift)[shift:].view(shape).copy_(x)
            return moved

        q, k, v = (
            made(grid, heads, dim).requires_grad_()
            for grid, heads, dim in (
                (hood.query_grid, 4, 16),
                (hood.key_grid, 2, 16),
                (hood.key_grid, 2, 24),
            )
        )
        out, lse = ga.attention(q, k, v, hood, return_lse=True, key_weights=key_weights, backend="emulated")
        grad = made(hood.query_grid, 4, 24)
        if transposed:
            grad = grad.transpose(1, 2).contiguous().transpose(1, 2)
        (alone,) = torch.autograd.grad(out, q, grad, retain_graph=True)
        return out, lse, alone, *torch.autograd.grad((out, lse), (q, k, v), (grad, lse.detach().sin()))

    given = [(1,), (2,), (1, True), (2, False, 3)]
    right = []
    for arguments in given:
        calls.forget()
        right.append(passes(*arguments))
    calls.forget()
    for _ in range(2):
        for arguments, expected in zip(given, right, strict=True):
            assert same(passes(*arguments), expected)
            assert len(vars(hood)["_kept_calls"]) == 1
    assert not same(right[0], right[1])


def test_scales_of_heads_and_a_key_bias_are_read_where_they_lie_now():
    case = problem(HOOD, torch.float32, dim=16, dim_v=16, heads=2, kv_heads=1)
    q, k, v, do = (x.flatten(1, -3) for x in (case.q, case.k, case.v, case.grad_out))

    def of(scale, bias):
        out, lse = Emulated().forward(q, k, v, bias, HOOD, scale)
        found = Emulated().backward(do, None, q, k, v, bias, out, lse, HOOD, scale, True, True)
        return out, lse, *found[:5]

    generator = torch.Generator().manual_seed(0)
    given = [(torch.rand(1, 2, generator=generator), torch.randn(1, 70, generator=generator)) for _ in "ab"]
    assert not torch.equal(of(*given[0])[0], of(*given[1])[0])
    for scale, bias in given:
        found = of(scale, bias)
        for plan in (device_plan(HOOD, CPU), device_plan(HOOD.transpose(), CPU)):
            plan.launches.clear()
        assert same(found, of(scale, bias))


def test_operands_at_odd_addresses_are_copied_though_their_form_is_known():
    case = problem(HOOD, torch.float16, dim=16, dim_v=16, heads=1, kv_heads=1)
    right = anew(case, Emulated())
    for name in ("q", "k", "v", "grad_out"):
        x = getattr(case, name)
        moved = x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)
        assert moved.data_ptr() % 16
        assert same(results(type(case)(**(vars(case) | {name: moved})), Emulated()), right)


def test_a_plan_keeps_some_forms_and_begins_anew_beyond(monkeypatch):
    monkeypatch.setattr(launches, "MOST_KEPT", 2)
    kept = launches.Launches()
    for form in "abc":
        kept.keep(form, ())
    assert set(kept) == {"c"}
