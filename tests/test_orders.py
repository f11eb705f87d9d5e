"""Orders of tokens: permutations whose neighbors are near, with the exact structure of each curve."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn.grids import curves
from geoattn.grids.bisection import bisection

GRIDS = [
    ga.grids.cartesian(10),
    ga.grids.cartesian((5, 9)),
    ga.grids.cartesian((3, 4, 5)),
    ga.grids.equiangular(9, 16),
    ga.grids.reduced_gaussian("O8"),
    ga.grids.healpix(8),
    ga.grids.healpix(5, order="ring"),
    ga.grids.icosahedral(2),
    ga.grids.cubed_sphere(5),
    ga.grids.points([10.0, -20.0, 30.0, 80.0, -70.0], [0.0, 100.0, 200.0, 300.0, 350.0]),
    ga.grids.product(ga.grids.cartesian(3), ga.grids.healpix(4)),
    ga.grids.gaussian(1, 1),
]


@pytest.mark.parametrize("curve", ["hilbert", "morton", "bisection", "row_major"])
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_order_is_a_permutation(grid, curve):
    order = ga.grids.order(grid, curve)
    assert order.dtype == np.int32
    assert order.shape == (grid.size,)
    np.testing.assert_array_equal(np.sort(order), np.arange(grid.size))


@pytest.mark.parametrize(("dimensions", "bits"), [(1, 5), (2, 1), (2, 5), (3, 3), (4, 2)])
def test_hilbert_curve_visits_a_neighbor_each_step_and_each_place_once(dimensions, bits):
    places = np.indices((1 << bits,) * dimensions).reshape(dimensions, -1).T
    keys = curves.hilbert(places, bits)
    np.testing.assert_array_equal(np.sort(keys), np.arange(len(places)))
    steps = np.diff(places[np.argsort(keys)], axis=0)
    np.testing.assert_array_equal(np.abs(steps).sum(axis=1), 1)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_hilbert_curve_fills_each_quadrant_before_the_next(bits):
    places = np.indices((1 << bits,) * 2).reshape(2, -1).T
    path = places[np.argsort(curves.hilbert(places, bits))]
    for level in range(bits):
        quadrants = (path >> level) @ [1 << bits, 1]
        assert (np.diff(quadrants) != 0).sum() == 4 ** (bits - level) - 1


def test_morton_interleaves_bits_first_axis_first():
    np.testing.assert_array_equal(
        curves.morton(np.array([[1, 0], [0, 1], [3, 1], [2, 3]]), 2), [2, 1, 11, 13]
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 31)] * 3), min_size=1, max_size=50, unique=True))
def test_curve_positions_are_distinct_for_distinct_places(places):
    places = np.array(places)
    assert len(np.unique(curves.hilbert(places, 5))) == len(places)
    assert len(np.unique(curves.morton(places, 5))) == len(places)


def test_nested_order_is_the_numbering_of_nested_healpix():
    nested, ring = ga.grids.healpix(16), ga.grids.healpix(16, order="ring")
    np.testing.assert_array_equal(ga.grids.order(nested, "nested"), np.arange(nested.size))
    expected = ga.grids.nested_to_ring(16, np.arange(ring.size))
    np.testing.assert_array_equal(ga.grids.order(ring, "nested"), expected)


@pytest.mark.parametrize(
    "grid", [ga.grids.healpix(16), ga.grids.icosahedral(4), ga.grids.reduced_gaussian("O16")], ids=repr
)
@pytest.mark.parametrize("curve", ["hilbert", "bisection"])
def test_tiles_of_neighbors_are_compact(grid, curve):
    """A tile of 64 consecutive tokens spans little more than a cap of its area would."""
    order = ga.grids.order(grid, curve)
    tiles = grid.xyz[order[: grid.size // 64 * 64]].reshape(-1, 64, 3)
    centre = tiles.mean(axis=1, keepdims=True)
    centre /= np.linalg.norm(centre, axis=-1, keepdims=True)
    angle = np.arccos(np.clip((tiles * centre).sum(-1), -1, 1))
    cap = np.arccos(1 - 2 * 64 / grid.size)
    assert np.median(angle.max(axis=1)) < 2.2 * cap


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 300), leaf=st.integers(1, 70), dimensions=st.integers(1, 3), seed=st.integers(0, 99)
)
def test_bisection_gives_full_leaves_of_ascending_runs(count, leaf, dimensions, seed):
    points = np.random.default_rng(seed).integers(0, 8, (count, dimensions)).astype(float)  # many ties
    order = bisection(points, leaf)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    for start in range(0, count, leaf):
        for run in range(start, min(start + leaf, count), 8):
            assert (np.diff(order[run : min(run + 8, start + leaf)]) > 0).all()


def test_bisection_cuts_a_line_into_segments():
    line = np.random.default_rng(0).permutation(1000).astype(float)[:, None]
    tiles = line[bisection(line, 10)].reshape(100, 10)
    np.testing.assert_array_equal(
        np.sort(np.floor(tiles / 10), axis=1), np.arange(100)[:, None].repeat(10, 1)
    )


def test_bisection_halves_a_square_across_its_wider_side():
    points = np.stack(np.meshgrid(np.arange(16.0), np.arange(8.0), indexing="ij"), axis=-1).reshape(-1, 2)
    tiles = points[bisection(points, 8)].reshape(16, 8, 2)
    spans = np.ptp(tiles, axis=1)
    assert spans.max() <= 3
    assert (spans.prod(axis=1) == 3).all()  # each leaf is a block of 4 × 2
    runs = points[bisection(points, 64)].reshape(16, 8, 2)
    assert (np.ptp(runs, axis=1).prod(axis=1) == 3).all()  # and so are the parts of larger leaves


@pytest.mark.slow
@pytest.mark.parametrize("curve", ["hilbert", "morton", "bisection"])
def test_a_million_points_take_seconds(curve):
    grid = ga.grids.equiangular(721, 1440)
    ga.grids.order(ga.grids.gaussian(2, 2), curve)  # compiles
    assert grid.xyz.shape[-1] == 3
    start = time.perf_counter()
    order = ga.grids.order(grid, curve)
    assert time.perf_counter() - start < 10.0  # seconds even on a busy machine
    assert (np.bincount(order, minlength=grid.size) == 1).all()


@pytest.mark.parametrize(
    ("grid", "curve", "leaf", "message"),
    [
        (ga.grids.cartesian(4), "peano", 64, "curve 'peano' is unknown; the curves are .*'hilbert'"),
        (ga.grids.cartesian(4), "nested", 64, "'nested' needs a HEALPix grid"),
        (ga.grids.healpix(6, order="ring"), "nested", 64, "nside is a power of two"),
        (ga.grids.cartesian(4), "bisection", 0, "leaf must be at least 1, got 0"),
    ],
)
def test_impossible_orders_are_refused(grid, curve, leaf, message):
    with pytest.raises(ValueError, match=message):
        ga.grids.order(grid, curve, leaf=leaf)


@pytest.mark.parametrize("curve", ["hilbert", "morton"])
def test_a_product_with_points_has_an_order_that_keeps_neighbors_together(curve):
    """The points' lattice and time together have more bits than one key."""
    sphere = ga.grids.icosahedral(3)
    grid = ga.grids.product(ga.grids.cartesian(4), sphere)
    along = ga.grids.order(grid, curve)
    assert np.array_equal(np.sort(along), np.arange(grid.size))
    points = sphere.xyz[along % sphere.size]
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    assert np.median(steps) < 0.3  # some spacings of 0.12
    assert (
        np.median(np.linalg.norm(np.diff(np.random.default_rng(0).permutation(points), axis=0), axis=1)) > 1
    )
