"""What the operator says unasked: fallbacks, discs that reach nothing, operands of the wrong kind."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import xarray

import geoattn as ga
from geoattn import backends
from geoattn.plans import cache

GRID = ga.grids.gaussian(6, 12)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(backends, "_said", set())
    monkeypatch.setattr(cache, "_doubted", set())
    cache._held.clear()


def operands(grid=GRID, dim=8, dtype=torch.float32):
    return [torch.randn(1, *grid.shape, 2, dim).to(dtype) for _ in range(3)]


# ---------------------------------------------------------------- fallbacks


def test_a_fallback_to_the_reference_is_said_once_for_each_reason(monkeypatch):
    """As for wide heads on a CUDA device, whose kernels end at 256 channels."""
    hood = ga.geodesic(GRID, radius=50.0)
    kernels = type(backends.get("cpu"))

    def narrow(self, q, k, v, hood):
        return f"head dim {q.shape[-1]} is above 256" if q.shape[-1] > 256 else None

    monkeypatch.setattr(kernels, "refuses", narrow)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ga.attention(*operands(dim=300), hood)
        ga.attention(*operands(dim=300), hood)
    (message,) = (str(w.message) for w in said)
    assert "on cpu runs on the reference" in message
    assert "cpu: head dim 300 is above 256" in message
    assert "geoattn.explain(q, k, v, hood)" in message
    assert ga.explain(*operands(dim=300), hood).chosen == "reference"
    with pytest.warns(UserWarning, match="head dim 257"):
        ga.attention(*operands(dim=257), hood)


def test_what_is_asked_for_or_runs_on_kernels_is_not_said():
    hood = ga.geodesic(GRID, radius=50.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ga.attention(*operands(), hood)
        ga.attention(*operands(), hood, backend="reference")
        ga.attention(*operands(), ga.everything(GRID))
        ga.attention(*operands(dtype=torch.float64), hood)


def test_devices_without_kernels_have_only_the_reference(monkeypatch):
    monkeypatch.setattr(backends, "automatic", lambda q: ("reference",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ga.attention(*operands(), ga.geodesic(GRID, radius=50.0))


def test_explain_is_public_and_named_in_refusals():
    q, k, v = operands()
    with pytest.raises(RuntimeError, match=r"cannot run this call.*geoattn\.explain\(q, k, v, hood\)"):
        ga.attention(q, k, v, ga.geodesic(GRID, radius=50.0), backend="sdpa")


# ---------------------------------------------------------------- reach


def said(hood):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        ga.plans.plan(hood, 32, 1)
        ga.plans.plan(hood, 32, 1)
        ga.plans.plan(hood, 64, 64)
    return [str(w.message) for w in found]


def test_radians_are_said_with_the_degrees_that_they_are():
    (message,) = said(ga.geodesic(GRID, radius=0.5))
    assert "100% of the queries of" in message
    assert "see no key but themselves" in message
    assert f"0.5 radians are radius={math.degrees(0.5):.4g}" in message


def test_discs_without_keys_are_said_with_the_share():
    fine = ga.grids.gaussian(24, 48)
    hood = ga.geodesic(fine, ga.grids.gaussian(4, 8), radius=8.0)
    empty = np.count_nonzero(hood.counts == 0) / hood.counts.size
    (message,) = said(hood)
    assert f"{empty:.0%} of the queries" in message
    assert "see no key, and get output 0; a larger radius, or geoattn.nearest" in message


def test_discs_in_products_and_restrictions_are_asked_too():
    disc = ga.geodesic(GRID, radius=0.5)
    assert "themselves" in said(ga.product(ga.window(ga.grids.cartesian(3), 3), disc))[0]
    assert "themselves" in said(disc.without_keys(np.eye(6, 12, dtype=bool)))[0]


@pytest.mark.parametrize("radius", [3.5, 20.0, 100.0])
def test_discs_that_reach_something_or_are_small_in_degrees_are_not_said(radius):
    assert said(ga.geodesic(ga.grids.gaussian(24, 48), radius=radius)) == []


def test_keys_that_no_query_sees_are_nothing_odd():
    """A backward pass plans the transposed neighborhood, in which such keys are empty rows."""
    hood = ga.geodesic(ga.grids.gaussian(4, 8), ga.grids.gaussian(24, 48), radius=5.0)
    assert np.count_nonzero(hood.transpose().counts == 0) > 600
    assert said(hood) == []


# ---------------------------------------------------------------- operands


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (
            lambda x: x.numpy(),
            r"must be a torch tensor, got numpy\.ndarray; make one with torch\.as_tensor\(.\)",
        ),
        (
            lambda x: xarray.DataArray(x.numpy()),
            r"must be a torch tensor, got xarray\.DataArray; make one with torch\.as_tensor\(.\.values\)",
        ),
        (lambda x: x.tolist(), r"must be a torch tensor, got list; make one with torch\.as_tensor\(.\)"),
    ],
)
def test_other_arrays_are_refused_with_the_call_that_converts_them(place, convert, message):
    given = operands()
    given[place] = convert(given[place])
    for call in (ga.attention, ga.explain):
        with pytest.raises(TypeError, match=message):
            call(*given, ga.geodesic(GRID, radius=50.0))
    name = "qkv"[place]
    values = ".values" if "DataArray" in message else ""
    converted = eval(f"torch.as_tensor({name}{values})", {"torch": torch, name: given[place]})
    assert isinstance(converted, torch.Tensor)


@pytest.mark.parametrize(
    ("change", "call"),
    [
        (lambda x: x.movedim(-2, 1), "q.movedim(1, -2)"),
        (lambda x: x.flatten(1, 2), "q.unflatten(1, (6, 12))"),
        (lambda x: x.flatten(1, 2).transpose(1, 2), "q.movedim(1, -2).unflatten(1, (6, 12))"),
    ],
)
def test_operands_in_another_order_are_refused_with_the_call_that_orders_them(change, call):
    hood = ga.geodesic(GRID, radius=50.0)
    q, k, v = operands()
    changed = change(q)
    with pytest.raises(ValueError, match="q must be") as refusal:
        ga.attention(changed, k, v, hood)
    assert str(refusal.value).endswith(call)
    torch.testing.assert_close(
        ga.attention(eval(call, {"q": changed}), k, v, hood), ga.attention(q, k, v, hood)
    )


def test_parts_to_merge_and_names_of_backends_are_asked_for_their_kind():
    with pytest.raises(TypeError, match=r"outs\[i\] must be a torch tensor, got numpy\.ndarray"):
        ga.merge([np.zeros((3, 2))], [np.zeros(3)])
    with pytest.raises(TypeError, match=r"backend must be a name in geoattn\.backends\(\) or None, got int"):
        ga.attention(*operands(), ga.geodesic(GRID, radius=50.0), backend=1)


# ---------------------------------------------------------------- products


def test_the_reference_and_second_derivatives_take_products_with_points():
    points = ga.grids.points(*np.random.default_rng(0).uniform((-80, 0), (80, 360), (60, 2)).T)
    hood = ga.product(ga.window(ga.grids.cartesian(3), 3), ga.nearest(points, k=5))
    q, k, v = (x.double().requires_grad_() for x in operands(hood.query_grid, dim=2))
    right = ga.attention(q, k, v, hood, backend="cpu")
    torch.testing.assert_close(ga.attention(q, k, v, hood, backend="reference"), right)
    assert torch.autograd.gradgradcheck(lambda q: ga.attention(q, k, v, hood), (q,), fast_mode=True)
