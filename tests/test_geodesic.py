"""Geodesic discs against great-circle distances, pair by pair in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn.neighborhoods.boxes import BoxTree


def dense(hood):
    """The neighborhood as a boolean matrix, [queries, keys]; rows must be ascending."""
    indptr, indices = hood.to_csr()
    row = np.repeat(np.arange(hood.query_grid.size), np.diff(indptr))
    assert ((np.diff(indices) > 0) | (np.diff(row) > 0)).all()
    matrix = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    matrix[row, indices] = True
    return matrix


def distances(query_grid, key_grid):
    """Great-circle distances in degrees, from latitudes and longitudes, good at all distances."""
    lat_a, lon_a = (np.radians(x.reshape(-1, 1)) for x in (query_grid.lat, query_grid.lon))
    lat_b, lon_b = (np.radians(x.reshape(1, -1)) for x in (key_grid.lat, key_grid.lon))
    d = lon_b - lon_a
    across = np.hypot(
        np.cos(lat_b) * np.sin(d), np.cos(lat_a) * np.sin(lat_b) - np.sin(lat_a) * np.cos(lat_b) * np.cos(d)
    )
    along = np.sin(lat_a) * np.sin(lat_b) + np.cos(lat_a) * np.cos(lat_b) * np.cos(d)
    return np.degrees(np.arctan2(across, along))


def assert_is_disc(hood):
    """Every key clearly within the radius, none clearly beyond; ties of the rounding may go either way."""
    apart = distances(hood.query_grid, hood.key_grid)
    matrix = dense(hood)
    assert matrix[apart <= hood.radius * (1 + 0.5e-9)].all()
    assert not matrix[apart > hood.radius * (1 + 2e-9) + 1e-10].any()
    assert np.array_equal(hood.counts.reshape(-1), matrix.sum(1))
    assert hood.counts.shape == hood.query_grid.shape
    return matrix


RNG = np.random.default_rng(0)


def random_points(n):
    return ga.grids.points(
        np.degrees(np.arcsin(RNG.uniform(-1, 1, n))), RNG.uniform(0, 360, n), areas=np.full(n, 4 * np.pi / n)
    )


GRIDS = {
    "poles": ga.grids.equiangular(9, 16),
    "cell-centred": ga.grids.equiangular(8, 12, poles=False),
    "gaussian": ga.grids.gaussian(7, 15),
    "odd": ga.grids.gaussian(5, 7),
    "reduced": ga.grids.reduced_gaussian("O4"),
    "nested": ga.grids.healpix(4),
    "ring": ga.grids.healpix(3, order="ring"),
    "points": random_points(120),
}
RADII = (0.5, 11.25, 22.5, 45.0, 73.1, 90.0, 120.0, 179.5)


@pytest.mark.parametrize("keys", GRIDS)
@pytest.mark.parametrize("queries", GRIDS)
def test_disc_holds_the_keys_within_the_radius(queries, keys):
    for radius in RADII:
        hood = ga.geodesic(GRIDS[queries], GRIDS[keys], radius=radius)
        matrix = assert_is_disc(hood)
        assert np.array_equal(dense(hood.transpose()), matrix.T)


@pytest.mark.parametrize("name", GRIDS)
def test_self_neighborhood_is_symmetric_and_its_own_transpose(name):
    grid = GRIDS[name]
    apart = distances(grid, grid)
    ties = RNG.choice(apart[(apart > 1) & (apart < 179)], 20)  # radii with keys at exactly the radius
    for radius in (*RADII, *ties):
        hood = ga.geodesic(grid, radius=radius)
        matrix = dense(hood)
        assert np.array_equal(matrix, matrix.T)
        assert matrix[apart <= radius].all()  # closed: a key at the radius is seen
        assert np.diagonal(matrix).all()
        assert hood.transpose() == hood


@settings(max_examples=120, deadline=None)
@given(
    nlat=st.integers(1, 9),
    nlon=st.integers(1, 12),
    key_nlat=st.integers(1, 9),
    key_nlon=st.integers(1, 12),
    start=st.sampled_from([0.0, 15.0, 30.0, 180.0, 7.3]),
    radius=st.floats(0.01, 179.99),
    kinds=st.tuples(st.booleans(), st.booleans()),
)
def test_discs_between_any_two_lat_lon_grids(nlat, nlon, key_nlat, key_nlon, start, radius, kinds):
    make = [ga.grids.gaussian if gaussian else _cell_centred for gaussian in kinds]
    keys = make[1](key_nlat, key_nlon)
    keys = type(keys)(**{**keys._content(), "lon_start": start})
    hood = ga.geodesic(make[0](nlat, nlon), keys, radius=radius)
    matrix = assert_is_disc(hood)
    assert np.array_equal(dense(hood.transpose()), matrix.T)


def _cell_centred(nlat, nlon):
    return ga.grids.equiangular(nlat, nlon, poles=False)


@pytest.mark.parametrize("radius", [10.0, 30.0, 91.0])
def test_every_copy_of_the_pole_sees_the_whole_cap(radius):
    grid = ga.grids.equiangular(19, 36)  # rows every 10°, pole rows of 36 coincident points
    cap = 36 * (int(radius // 10) + 1)
    counts = ga.geodesic(grid, radius=radius).counts
    assert (counts[0] == cap).all()
    assert (counts[-1] == cap).all()


def test_disc_crosses_the_antimeridian():
    grid = ga.grids.gaussian(1, 36)  # the equator, every 10°
    assert list(ga.geodesic(grid, radius=20.0).rows(np.array([0])).indices) == [0, 1, 2, 34, 35]
    assert list(ga.geodesic(grid, radius=20.0).rows(np.array([35])).indices) == [0, 1, 33, 34, 35]


@pytest.mark.parametrize(
    ("queries", "keys", "turns"),
    [
        (ga.grids.gaussian(6, 12), None, 12),
        (ga.grids.gaussian(6, 12), ga.grids.equiangular(5, 18), 6),
        (ga.grids.healpix(4), None, 4),
        (ga.grids.healpix(4), ga.grids.gaussian(6, 12), 4),
        (ga.grids.gaussian(6, 10), ga.grids.healpix(4), 2),
    ],
)
def test_edges_are_invariant_under_the_rotation(queries, keys, turns):
    for radius in RADII:
        hood = ga.geodesic(queries, keys, radius=radius)
        turn = hood.rotation
        assert turn.query_ring // turn.query_step == turn.key_ring // turn.key_step == turns
        query, key = np.arange(hood.query_grid.size), np.arange(hood.key_grid.size)
        query = query // turn.query_ring * turn.query_ring + (query + turn.query_step) % turn.query_ring
        key = key // turn.key_ring * turn.key_ring + (key + turn.key_step) % turn.key_ring
        matrix = dense(hood)
        assert np.array_equal(matrix[query][:, key], matrix)


def test_grids_without_a_common_turn_have_no_rotation():
    assert ga.geodesic(ga.grids.gaussian(4, 8), ga.grids.gaussian(4, 9), radius=30).rotation is None
    assert ga.geodesic(ga.grids.healpix(4, order="ring"), radius=30).rotation is None


def test_disc_smaller_than_the_spacing_may_be_empty():
    fine, coarse = ga.grids.gaussian(16, 32), ga.grids.gaussian(4, 8)
    hood = ga.geodesic(fine, coarse, radius=2.0)
    assert hood.counts.min() == 0
    assert_is_disc(hood)
    nothing = ga.geodesic(ga.grids.gaussian(2, 4), ga.grids.healpix(1), radius=0.01)
    assert nothing.counts.sum() == 0
    assert len(nothing.to_csr().indices) == 0


def test_all_keys_are_covered_when_the_radius_exceeds_the_spacing():
    hood = ga.geodesic(GRIDS["nested"], GRIDS["gaussian"], radius=20.0)
    assert (hood.transpose().counts > 0).all()
    assert len(np.unique(hood.to_csr().indices)) == GRIDS["gaussian"].size


def test_only_the_rows_asked_for_are_made_in_the_order_asked():
    for grid in (GRIDS["gaussian"], GRIDS["points"]):
        hood = ga.geodesic(grid, radius=40.0)
        queries = np.array([50, 3, 50, 0])
        indptr, indices = hood.rows(queries)
        for i, q in enumerate(queries):
            assert np.array_equal(indices[indptr[i] : indptr[i + 1]], np.flatnonzero(dense(hood)[q]))
        assert hood.rows(np.array([], int)).indptr.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), seed=st.integers(0, 99), limit=st.floats(0.0, 12.0), shuffled=st.booleans())
def test_box_tree_finds_exactly_the_points_in_reach(n, seed, limit, shuffled):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3))
    if not shuffled:
        points = points[np.argsort(points[:, 0])]
    queries = rng.normal(size=(7, 3))
    indptr, indices = BoxTree(points).within(queries, np.full(7, limit))
    squared = (queries[:, None] - points) ** 2
    expected = squared[..., 0] + squared[..., 1] + squared[..., 2] <= limit
    assert np.array_equal(indices, np.nonzero(expected)[1])
    assert np.array_equal(np.diff(indptr), expected.sum(1))


def test_box_tree_sorts_numbers_of_three_bytes():
    points = np.random.default_rng(0).normal(size=(70_000, 3))
    found = BoxTree(points).within(points[:3], np.full(3, 0.05)).indices
    squared = ((points[:3, None] - points) ** 2).sum(-1)
    assert found.tolist() == np.nonzero(squared <= 0.05)[1].tolist()


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_radius_out_of_range_is_refused(radius):
    with pytest.raises(ValueError, match=r"radius must be above 0 degrees, got "):
        ga.geodesic(ga.grids.gaussian(4, 8), radius=radius)


@pytest.mark.parametrize("radius", [180.0, 237.3, float("inf")])
def test_a_radius_from_180_degrees_on_is_everything(radius):
    keys, queries = ga.grids.gaussian(4, 8), ga.grids.healpix(2)
    assert ga.geodesic(queries, keys, radius=radius) == ga.everything(queries, keys)
    assert ga.geodesic(keys, radius=radius) == ga.everything(keys)


@pytest.mark.parametrize(
    "grids",
    [
        (ga.grids.cartesian((4, 4)),),
        (ga.grids.gaussian(4, 8), ga.grids.cartesian((4, 4))),
        (ga.grids.product(ga.grids.cartesian(2), ga.grids.gaussian(4, 8)),),
    ],
)
def test_grids_off_the_sphere_are_refused(grids):
    with pytest.raises(TypeError, match=r"geodesic needs points on a sphere.*use window\(grid, size\)"):
        ga.geodesic(*grids, radius=3.0)
