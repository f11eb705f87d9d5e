"""Windows from the queries of one plane to the keys of another: their definition, and what they are for."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import geoattn as ga

plane, Neighborhood = ga.grids.cartesian, ga.neighborhoods.Neighborhood


def seen(i, keys, pitch, origin, size, stride, dilation, causal, offset, boundary, periodic):
    """The keys of query i along one axis, from the definition, place by place; and how far each lies."""
    d, s, k = dilation, stride, size
    if periodic:
        orbit, at = [], (i * pitch) % keys
        chain = at % np.gcd(keys, d)
        while (y := (chain + len(orbit) * d) % keys) not in orbit:
            orbit.append(y)
        p, places = orbit.index(at), None
    else:
        chain, p = (i * pitch) % d, (i * pitch) // d
        places = [t for t in range(-60, 60) if 0 <= origin + chain + t * d < keys]
    group = (p - offset) // s * s + offset
    shift = boundary == "shift" and not periodic
    leader = group + (s - 1 if causal else s // 2)
    if shift:
        leader = min(leader, places[-1])
    low = leader - k + 1 if causal else leader - k // 2
    if shift and not causal:
        low = min(max(low, places[0]), places[-1] + 1 - k)
    high = p if causal else low + k - 1
    if periodic:
        low = max(low, high - len(orbit) + 1)
        return {(orbit[t % len(orbit)] + origin) % keys: (t - p) * d for t in range(low, high + 1)}
    return {origin + chain + t * d: (t - p) * d for t in places if low <= t <= high}


@st.composite
def axes(draw):
    pitch, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = draw(st.integers(1, 6))
    stride = draw(st.integers(1, size))
    periodic = draw(st.booleans())
    queries = draw(st.integers(1, 9))
    if periodic:
        keys, origin = queries * pitch, draw(st.integers(-4, 12))
        if keys // np.gcd(keys, dilation) % stride:
            stride = 1
        boundary = "shift"
    else:
        keys, origin = draw(st.integers(1, 20)), draw(st.integers(-6, 12))
        boundary = "clip" if size * dilation > keys else draw(st.sampled_from(("shift", "clip")))
    causal, offset = draw(st.booleans()), draw(st.integers(0, stride - 1))
    return queries, keys, pitch, origin, size, stride, dilation, causal, offset, boundary, periodic


def made(axis):
    queries, keys, pitch, origin, size, stride, dilation, causal, offset, boundary, periodic = axis
    query_grid, key_grid = plane(queries, float(pitch)), plane(keys, periodic=periodic)
    options = {"key_grid": key_grid, "origin": origin}
    return ga.window(query_grid, size, stride, dilation, causal, offset, boundary, **options)


def dense(hood):
    mask = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    indptr, indices = hood.to_csr()
    mask[np.repeat(np.arange(len(mask)), np.diff(indptr)), indices] = True
    return mask


@given(axes())
@settings(max_examples=400, deadline=None)
def test_each_query_sees_the_keys_of_the_definition_and_each_key_the_queries_that_see_it(axis):
    hood = made(axis)
    indptr, indices = hood.to_csr()
    for i in range(axis[0]):
        assert indices[indptr[i] : indptr[i + 1]].tolist() == sorted(seen(i, *axis[1:])), i
    assert hood.counts.tolist() == np.diff(indptr).tolist()
    back = hood.transpose()
    np.testing.assert_array_equal(dense(back), dense(hood).T)
    np.testing.assert_array_equal(dense(back.transpose()), dense(hood))
    for one in (hood, back):
        if turn := one.rotation:
            rings = dense(one).reshape(-1, turn.query_ring, one.key_grid.size // turn.key_ring, turn.key_ring)
            rolled = np.roll(rings, (turn.query_step, turn.key_step), axis=(1, 3))
            np.testing.assert_array_equal(rings, rolled)


def test_on_one_grid_at_origin_0_it_is_the_window_itself():
    grid = plane((9, 8), periodic=(False, True))
    for options in ({"size": 3}, {"size": 4, "stride": 4, "offset": 1}, {"size": 3, "dilation": 2}):
        for causal, boundary in itertools.product((False, True), ("shift", "clip")):
            one = ga.window(grid, **options, causal=causal, boundary=boundary)
            between = ga.window(grid, **options, causal=causal, boundary=boundary, key_grid=grid, origin=0)
            np.testing.assert_array_equal(dense(one), dense(between))


def test_values_survive_the_trip_through_json():
    hood = ga.window(plane((4, 4), 2.0), 3, key_grid=plane((10, 10)), origin=(1, 2), boundary="clip")
    assert Neighborhood.from_dict(hood.to_dict()) == hood
    assert Neighborhood.from_dict(hood.transpose().to_dict()) == hood.transpose() != hood
    assert repr(hood).endswith("from cartesian grid 4×4, spacing (2.0, 2.0) at (1, 2) to "
                               "cartesian grid 10×10, spacing (1.0, 1.0)")  # fmt: skip


def test_the_cpu_agrees_with_the_reference_in_results_and_gradients():
    hoods = [
        ga.window(plane((6, 8)), 6, 2, boundary="clip", key_grid=plane((10, 12)), origin=2),
        ga.window(plane((7, 9)), (4, 3), boundary="clip", key_grid=plane((8, 9)), stride=(4, 3)),
        ga.window(plane((4, 6), 3.0), 5, key_grid=plane((12, 18), periodic=(False, True)), origin=(1, 4)),
        ga.window(plane(20), 16, causal=True, key_grid=plane(90), origin=70),
        ga.window(
            ga.grids.gaussian(6, 12), 3, boundary="clip", key_grid=plane((8, 12), periodic=(False, True))
        ),
        ga.window(ga.grids.equiangular(7, 12), 3, key_grid=ga.grids.equiangular(13, 24)),
    ]
    for hood in hoods:
        for one in (hood, hood.transpose()):
            torch.manual_seed(0)
            q = torch.randn(1, *one.query_grid.shape, 2, 8, requires_grad=True)
            k, v = (torch.randn(1, *one.key_grid.shape, 2, 8, requires_grad=True) for _ in range(2))
            out = ga.attention(q, k, v, one, key_weights=None, backend="cpu")
            expected = ga.attention(
                *(x.double() for x in (q, k, v)), one, key_weights=None, backend="reference"
            )
            torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-6)
            grad = torch.randn_like(out)
            found = torch.autograd.grad(out, (q, k, v), grad)
            right = torch.autograd.grad(expected, (q, k, v), grad.double())
            for a, b in zip(found, right, strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def attend(q, k, v, hood):
    return ga.attention(q, k, v, hood, key_weights=None, scale=1.0)


def test_halonet_whose_halo_of_zeros_counts_in_the_softmax():
    b, h, n, dim = 4, 2, 8, 3
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, n, n, 1, dim, dtype=torch.float64) for _ in range(3))
    pad = partial(F.pad, pad=(0, 0, 0, 0, h, h, h, h))
    hood = ga.window(plane((n, n)), b + 2 * h, b, boundary="clip", key_grid=plane((n + 2 * h,) * 2), origin=h)
    found = attend(q, pad(k), pad(v), hood)

    def blocks(x, size, step):  # [blocks, points, dim]
        cut = x[0, :, :, 0].unfold(0, size, step).unfold(1, size, step)
        return cut.reshape(-1, dim, size * size).transpose(1, 2)

    queries, keys, values = (blocks(q, b, b), blocks(pad(k), b + 2 * h, b), blocks(pad(v), b + 2 * h, b))
    expected = torch.softmax(queries @ keys.mT, -1) @ values
    torch.testing.assert_close(blocks(found, b, b), expected)


def test_the_last_tokens_of_a_longer_past():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 12, 1, 4, dtype=torch.float64) for _ in range(3))
    whole = attend(q, k, v, ga.window(plane(12), 5, causal=True))
    last = ga.window(plane(3), 5, causal=True, key_grid=plane(12), origin=9)
    torch.testing.assert_close(attend(q[:, 9:], k, v, last), whole[:, 9:])


def test_queries_on_every_second_point_are_those_of_the_whole():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8, 10, 1, 4, dtype=torch.float64) for _ in range(3))
    whole = attend(q, k, v, ga.window(plane((8, 10)), 3))
    coarse = ga.window(plane((4, 5), 2.0), 3, key_grid=plane((8, 10)))
    torch.testing.assert_close(attend(q[:, ::2, ::2], k, v, coarse), whole[:, ::2, ::2])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: ga.window(plane(8), 3, origin=1),
            "origin 1 is where queries lie on another grid",
        ),
        (lambda: ga.window(plane(8), 3, key_grid=plane((8, 8))), "must have as many axes"),
        (lambda: ga.window(plane(8, 1.5), 3, key_grid=plane(8)), r"whole numbers of keys apart.*\[1.5\]"),
        (
            lambda: ga.window(ga.grids.gaussian(6, 10), 3, key_grid=ga.grids.gaussian(12, 24)),
            "whole numbers of keys apart",
        ),
        (
            lambda: ga.window(plane(8), 3, key_grid=plane(9, periodic=True)),
            "do not close on the ring of 9",
        ),
        (lambda: ga.window(plane(4), 9, key_grid=plane(8)), "exceeds the 8 positions on axis 0"),
    ],
)
def test_grids_that_do_not_fit_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_numbers_and_grids_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match=r"origin must be int or one per axis, got 1.5"):
        ga.window(plane(8), 3, key_grid=plane(10), origin=1.5)
    with pytest.raises(TypeError, match="key_grid must be a grid, got 10"):
        ga.window(plane(8), 3, key_grid=10)
    with pytest.raises(TypeError, match=r"needs a grid whose axes are ordered positions.*nearest\("):
        ga.window(plane(8), 3, key_grid=ga.grids.healpix(1))
