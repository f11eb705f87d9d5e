"""What every neighborhood promises, and the patterns that are neither window nor disc."""

import gc
import json
import pickle
import weakref

import numpy as np
import pytest

import geoattn as ga
from geoattn.grids.orders import order
from geoattn.neighborhoods import Neighborhood

RNG = np.random.default_rng(0)
LATLON = ga.grids.equiangular(7, 12)
NESTED = ga.grids.healpix(4)
REDUCED = ga.grids.reduced_gaussian("O4")
TIME = ga.grids.cartesian(5)
PLANE = ga.grids.cartesian((6, 7), periodic=(False, True))


def random_edges():
    seen = RNG.random((PLANE.size, TIME.size)) < 0.3
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    return ga.from_edges(PLANE, TIME, indptr, np.nonzero(seen)[1])


PATTERNS = {
    "window": ga.window(PLANE, (3, 3), causal=(True, False)),
    "swin": ga.window(PLANE, (3, 7), stride=(3, 7), offset=(1, 2), boundary="clip"),
    "disc": ga.geodesic(LATLON, radius=35.0),
    "cross disc": ga.geodesic(REDUCED, NESTED, radius=20.0),
    "nested disc": ga.geodesic(NESTED, LATLON, radius=25.0),
    "nearest": ga.nearest(LATLON, k=7),
    "cross nearest": ga.nearest(NESTED, REDUCED, k=3),
    "everything": ga.everything(TIME, NESTED),
    "curve": ga.curve_window(NESTED, 9),
    "curve blocks": ga.curve_window(LATLON, 8, stride=8, curve="morton"),
    "shifted curve blocks": ga.curve_window(NESTED, 8, stride=8, curve="nested", offset=3, boundary="clip"),
    "hops": ga.k_hop(ga.grids.icosahedral(2), 2),
    "hops along edges": ga.k_hop(ga.window(PLANE, (1, 3), causal=(False, True)), 2),
    "union": ga.union(ga.geodesic(LATLON, radius=35.0), ga.window(LATLON, (3, 6)), ga.nearest(LATLON, k=4)),
    "union of discs": ga.union(
        ga.geodesic(NESTED, LATLON, radius=25.0), ga.geodesic(NESTED, LATLON, radius=10.0)
    ),
    "edges": random_edges(),
    "time × sphere": ga.product(ga.window(TIME, 3, causal=True), ga.geodesic(NESTED, radius=16.0)),
    "sphere × time": ga.product(ga.geodesic(LATLON, NESTED, radius=25.0), ga.window(TIME, 3)),
}
PATTERNS |= {
    f"{name}, keys hidden": hood.without_keys(RNG.random(hood.key_grid.shape) < 0.3)
    for name, hood in PATTERNS.items()
}
PATTERNS |= {
    f"{name}, transposed": hood.transpose() for name, hood in PATTERNS.items() if hood.transpose() != hood
}


def dense(hood):
    """The neighborhood as a boolean matrix, [queries, keys]; rows must be ascending."""
    indptr, indices = hood.to_csr()
    row = np.repeat(np.arange(hood.query_grid.size), np.diff(indptr))
    assert ((np.diff(indices) > 0) | (np.diff(row) > 0)).all()
    matrix = np.zeros((hood.query_grid.size, hood.key_grid.size), bool)
    matrix[row, indices] = True
    return matrix


@pytest.fixture(params=PATTERNS)
def hood(request):
    return PATTERNS[request.param]


def test_transpose_reverses_every_edge_and_undoes_itself(hood):
    assert np.array_equal(dense(hood.transpose()), dense(hood).T)
    copy = pickle.loads(pickle.dumps(hood.transpose()))  # it does not know where it comes from
    assert copy.transpose() == hood


def test_a_transpose_is_worked_out_once_and_keeps_nothing_alive():
    disc = ga.geodesic(ga.grids.gaussian(5, 10), radius=53.0)
    for value in (ga.relations.edges(disc), disc, disc.without_keys(np.arange(50).reshape(5, 10) % 7 == 0)):
        turned = value.transpose()
        assert value.transpose() is turned
        assert turned.transpose() is value
    references = weakref.ref(value), weakref.ref(turned)
    gc.disable()
    try:
        del value, turned
        assert not any(reference() for reference in references)
    finally:
        gc.enable()


def test_counts_are_the_lengths_of_the_rows(hood):
    assert hood.counts.shape == hood.query_grid.shape
    assert np.array_equal(hood.counts.reshape(-1), np.diff(hood.to_csr().indptr))
    assert not hood.counts.flags.writeable


def test_rows_come_in_the_order_and_number_asked(hood):
    matrix = dense(hood)
    queries = RNG.integers(0, hood.query_grid.size, 9)
    indptr, indices = hood.rows(queries)
    assert indptr.dtype == np.int64
    assert indices.dtype == np.int32
    for i, query in enumerate(queries):
        assert np.array_equal(indices[indptr[i] : indptr[i + 1]], np.flatnonzero(matrix[query]))
    assert len(hood.rows(queries[:0]).indices) == 0


def test_blocks_hold_all_rows_in_order_and_few_edges_each(hood):
    blocks = list(hood.blocks(edges=200))
    assert np.array_equal(np.concatenate([q for q, _ in blocks]), np.arange(hood.query_grid.size))
    assert np.array_equal(np.concatenate([r.indices for _, r in blocks]), hood.to_csr().indices)
    longest = hood.counts.max()
    assert max(len(r.indices) for _, r in blocks) <= max(4 * 200, 16 * longest)


def test_rotation_maps_edges_to_edges(hood):
    turn = hood.rotation
    if turn is None:
        return
    assert turn.query_ring // turn.query_step == turn.key_ring // turn.key_step > 1
    query, key = np.arange(hood.query_grid.size), np.arange(hood.key_grid.size)
    query = query // turn.query_ring * turn.query_ring + (query + turn.query_step) % turn.query_ring
    key = key // turn.key_ring * turn.key_ring + (key + turn.key_step) % turn.key_ring
    matrix = dense(hood)
    assert np.array_equal(matrix[query][:, key], matrix)


def test_the_expected_patterns_know_their_rotation():
    known = {name for name, hood in PATTERNS.items() if hood.rotation}
    assert {"window", "disc", "nested disc", "time × sphere", "sphere × time"} <= known
    assert {"nearest", "curve", "edges", "disc, keys hidden"}.isdisjoint(known)


def test_content_survives_pickle_and_json(hood):
    for copy in (
        pickle.loads(pickle.dumps(hood)),
        Neighborhood.from_dict(json.loads(json.dumps(hood.to_dict()))),
    ):
        assert copy == hood
        assert hash(copy) == hash(hood)
        assert np.array_equal(dense(copy), dense(hood))


def test_repr_is_one_line_that_names_the_grids(hood):
    text = repr(hood)
    assert "\n" not in text
    assert "object at" not in text
    assert "grid" in text


def test_hidden_keys_are_seen_by_nobody(hood):
    hidden = RNG.random(hood.key_grid.shape) < 0.5
    matrix = dense(hood) & ~hidden.reshape(-1)
    assert np.array_equal(dense(hood.without_keys(hidden)), matrix)
    assert np.array_equal(dense(hood.without_keys(hidden).transpose()), matrix.T)
    twice = RNG.random(hood.key_grid.shape) < 0.5
    assert hood.without_keys(hidden).without_keys(twice) == hood.without_keys(hidden | twice)


def test_hiding_nothing_changes_nothing(hood):
    assert hood.without_keys(np.zeros(hood.key_grid.shape, bool)) is hood


def test_hiding_whole_rings_keeps_the_rotation():
    hidden = np.zeros(LATLON.shape, bool)
    hidden[0] = True
    disc = PATTERNS["disc"]
    assert disc.without_keys(hidden).rotation == disc.rotation
    assert disc.without_keys(hidden).transpose().rotation == disc.rotation


@pytest.mark.parametrize("mask", [np.zeros((7, 12)), np.zeros((12, 7), bool), np.zeros(84, bool)])
def test_masks_of_another_shape_or_type_are_refused(mask):
    with pytest.raises(ValueError, match=r"mask must be bool of the key grid's shape \(7, 12\)"):
        PATTERNS["disc"].without_keys(mask)


def test_equal_parameters_make_equal_neighborhoods():
    assert ga.geodesic(LATLON, radius=35) == PATTERNS["disc"]
    assert ga.geodesic(LATLON, radius=35.5) != PATTERNS["disc"]
    assert ga.geodesic(LATLON, LATLON, radius=35) == PATTERNS["disc"]
    assert ga.window(TIME, 3, stride=3, offset=4) == ga.window(TIME, (3,), stride=3, offset=1)


# everything ------------------------------------------------------------------------------------------


def test_everything_sees_everything():
    assert dense(ga.everything(TIME, NESTED)).all()
    assert ga.everything(TIME).key_grid == TIME


# nearest ---------------------------------------------------------------------------------------------


def nearest_by_sorting(queries, keys, k):
    """Sort all keys by distance, equal where they agree to nine digits, then by number."""
    matrix = np.zeros((len(queries), len(keys)), bool)
    for i, query in enumerate(queries):
        distance = np.linalg.norm(keys - query, axis=1)
        matrix[i, np.lexsort((np.arange(len(keys)), np.round(distance, 9)))[:k]] = True
    return matrix


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("keys", [LATLON, NESTED, REDUCED])
@pytest.mark.parametrize("queries", [LATLON, NESTED, REDUCED])
def test_nearest_keys_with_ties_to_the_lower_number(queries, keys, k):
    expected = nearest_by_sorting(queries.xyz.reshape(-1, 3), keys.xyz.reshape(-1, 3), k)
    assert np.array_equal(dense(ga.nearest(queries, keys, k=k)), expected)


@pytest.mark.parametrize("k", [1, 4, 5, 9])
def test_nearest_on_planes_of_different_spacing(k):
    fine, coarse = ga.grids.cartesian((8, 6), 0.5), ga.grids.cartesian((4, 3), 1.0)
    expected = nearest_by_sorting(fine.positions.reshape(-1, 2), coarse.positions.reshape(-1, 2), k)
    assert np.array_equal(dense(ga.nearest(fine, coarse, k=k)), expected)


def test_all_keys_may_be_nearest():
    assert dense(ga.nearest(NESTED, TIME_SPHERE, k=TIME_SPHERE.size)).all()


TIME_SPHERE = ga.grids.gaussian(3, 5)


@pytest.mark.parametrize("k", [0, -1, 85, 2.0, True])
def test_impossible_numbers_of_neighbors_are_refused(k):
    with pytest.raises(ValueError, match=f"k must be a whole number from 1 to the 84 keys, got {k}"):
        ga.nearest(LATLON, k=k)


@pytest.mark.parametrize("grids", [(LATLON, TIME), (PLANE,), (TIME, ga.grids.cartesian((2, 2)))])
def test_nearest_needs_a_common_distance(grids):
    with pytest.raises(TypeError, match="nearest needs two spherical grids or two Cartesian grids"):
        ga.nearest(*grids, k=1)


# curve windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", ["hilbert", "morton", "nested", "bisection", "row_major"])
def test_curve_window_is_a_window_over_ranks(curve):
    along = order(NESTED, curve)
    for size, stride in ((7, 1), (8, 8), (10, 4)):
        ranks = dense(ga.window(ga.grids.cartesian(NESTED.size), size, stride=stride))
        expected = np.zeros_like(ranks)
        expected[np.ix_(along, along)] = ranks
        assert np.array_equal(dense(ga.curve_window(NESTED, size, stride, curve)), expected)


def test_nested_blocks_are_the_coarser_pixels():
    matrix = dense(ga.curve_window(NESTED, 16, stride=16, curve="nested"))
    pixel = np.arange(NESTED.size) // 16
    assert np.array_equal(matrix, pixel[:, None] == pixel)


@pytest.mark.parametrize("size", [5, 16, 300])
def test_clipped_curve_windows_are_clipped_windows_over_ranks(size):
    along = order(NESTED, "hilbert")
    ranks = dense(ga.window(ga.grids.cartesian(NESTED.size), size, 4, offset=3, boundary="clip"))
    expected = np.zeros_like(ranks)
    expected[np.ix_(along, along)] = ranks
    hood = ga.curve_window(NESTED, size, 4, offset=-1, boundary="clip")
    assert np.array_equal(dense(hood), expected)
    assert hood == ga.curve_window(NESTED, size, 4, "hilbert", 7, "clip")


def test_shifted_nested_blocks_are_those_of_a_roll_with_its_mask():
    """HEAL-SWIN rolls the pixels back by the shift, cuts windows, and keeps the two ends apart."""
    window, shift, n = 16, 8, NESTED.size
    rolled = np.roll(np.arange(n), -shift).reshape(-1, window)
    expected = np.zeros((n, n), bool)
    for pixels in rolled:
        same_end = (pixels[:, None] < shift) == (pixels < shift)
        expected[np.ix_(pixels, pixels)] = same_end | (len(set(pixels < shift)) == 1)
    assert np.array_equal(dense(ga.curve_window(NESTED, window, window, "nested", shift, "clip")), expected)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((4, 1, "nested", 0, "wrap"), ValueError, 'boundary must be "shift" or "clip", got \'wrap\''),
        ((4, 1, "nested", 0.5), TypeError, "offset must be int, got 0.5"),
        ((0, 1, "nested", 0, "clip"), ValueError, "size must lie in 1"),
        ((0,), ValueError, "size must lie in 1 … 192, .* got 0"),
        ((193,), ValueError, "got 193"),
        ((4, 5), ValueError, "stride must lie in 1 … size = 4, got 5"),
        ((4.0,), TypeError, "size must be int, got 4.0"),
        ((4, 1, "peano"), ValueError, "curve 'peano' is unknown"),
    ],
)
def test_impossible_curve_windows_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        ga.curve_window(NESTED, *arguments)


# products --------------------------------------------------------------------------------------------


def test_product_sees_the_pairs_of_what_its_parts_see():
    time, space, level = ga.window(TIME, 3, causal=True), PATTERNS["disc"], ga.everything(TIME, PLANE)
    hood = ga.product(time, space, level)
    expected = np.einsum("ai,bj,ck->abcijk", dense(time), dense(space), dense(level))
    assert np.array_equal(dense(hood), expected.reshape(hood.query_grid.size, hood.key_grid.size))
    assert hood.query_grid == ga.grids.product(TIME, LATLON, TIME)
    assert hood.key_grid == ga.grids.product(TIME, LATLON, PLANE)
    assert ga.product(ga.product(time, space), level) == hood


def test_product_of_windows_is_the_window_on_the_product():
    grid = ga.grids.product(TIME, PLANE)
    hood = ga.product(ga.window(TIME, 2, causal=True), ga.window(PLANE, 3))
    assert np.array_equal(dense(hood), dense(ga.window(grid, (2, 3, 3), causal=(True, False, False))))


def test_products_need_two_neighborhoods():
    with pytest.raises(ValueError, match="at least two neighborhoods"):
        ga.product(PATTERNS["disc"])
    with pytest.raises(TypeError, match=r"a product is of neighborhoods, got cartesian grid .*window"):
        ga.product(TIME, PATTERNS["disc"])


# explicit edges --------------------------------------------------------------------------------------


def test_edges_are_sorted_within_each_row():
    grid = ga.grids.cartesian(3)
    hood = ga.from_edges(grid, TIME, [0, 2, 2, 5], [4, 1, 3, 0, 2])
    assert hood.to_csr().indices.tolist() == [1, 4, 0, 2, 3]
    assert hood.counts.tolist() == [2, 0, 3]


@pytest.mark.parametrize(
    ("indptr", "indices", "match"),
    [
        ([0, 1, 2], [0, 1], "indptr must be 4 non-decreasing numbers from 0 to 2"),
        ([0, 2, 1, 3], [0, 1, 2], "indptr must be"),
        ([0, 1, 2, 2], [0, 1, 2], "indptr must be"),
        ([0, 1, 2, 3], [0, 1, 5], r"key numbers must lie in \[0, 5\), got 0 … 5"),
        ([0, 1, 2, 3], [0, -1, 4], "got -1 … 4"),
        ([0, 2, 2, 3], [1, 1, 2], "same key twice"),
    ],
)
def test_malformed_edges_are_refused(indptr, indices, match):
    with pytest.raises(ValueError, match=match):
        ga.from_edges(ga.grids.cartesian(3), TIME, indptr, indices)


# hops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [1, 2, 5])
def test_hops_reach_what_as_many_edges_of_the_mesh_join(hops):
    mesh = ga.grids.icosahedral(2)
    edges = np.zeros((mesh.size, mesh.size), bool)
    for a, b, c in mesh.triangles:
        edges[[a, b, b, c, c, a], [b, a, c, b, a, c]] = True
    distance = np.where(np.eye(mesh.size, dtype=bool), 0, np.inf)
    for step in range(1, hops + 1):
        reached = (distance < np.inf) @ edges
        distance = np.where(reached & np.isinf(distance), step, distance)
    assert np.array_equal(dense(ga.k_hop(mesh, hops)), distance <= hops)
    assert sorted(set(ga.k_hop(mesh, 1).counts)) == [6, 7]  # twelve points have five neighbors


@pytest.mark.parametrize("n", [1, 2, 5])
def test_hops_on_the_cube_cross_the_sides_of_cells(n):
    mesh = ga.grids.cubed_sphere(n)
    seen = dense(ga.k_hop(mesh, 1))
    assert (seen.sum(1) == 5).all()
    assert np.array_equal(seen, seen.T)
    assert len(mesh.edges) == 12 * n**2
    face = np.arange(n * n).reshape(n, n)
    east = face + n * n  # face 1 lies east of face 0, north up on both
    assert seen[face[:, -1], east[:, 0]].all()
    assert seen[face[0], 4 * n * n + face[-1]].all()  # face 4 is joined to face 0 along its lower side
    assert n == 1 or (seen[face[1:], face[:-1]].all() and seen[face[:, 1:], face[:, :-1]].all())
    xyz = mesh.xyz.reshape(-1, 3)
    for turn in ([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, -1], [0, 1, 0]]):  # about z and x
        turned = (xyz @ np.array(turn).T @ xyz.T).argmax(1)
        assert np.array_equal(seen[turned][:, turned], seen)


def test_hops_of_points_around_the_globe_join_touching_voronoi_cells():
    mesh = ga.grids.icosahedral(2)
    shuffled = np.random.default_rng(0).permutation(mesh.size)
    points = ga.grids.points(mesh.lat[shuffled], mesh.lon[shuffled])
    expected = dense(ga.k_hop(mesh, 2))[shuffled][:, shuffled]
    assert np.array_equal(dense(ga.k_hop(points, 2)), expected)
    north = mesh.lat > 30
    region = ga.grids.points(mesh.lat[north], mesh.lon[north], areas=np.full(north.sum(), 0.1))
    assert region.edges is None  # they would join its ends around the world


def test_hops_along_the_edges_of_ones_own_mesh_follow_their_direction():
    line = ga.grids.cartesian(6)
    onward = ga.from_edges(line, line, [0, 1, 2, 3, 4, 5, 5], [1, 2, 3, 4, 5])
    matrix = dense(ga.k_hop(onward, 2))
    assert np.array_equal(matrix, np.triu(np.ones((6, 6), bool)) & np.tril(np.ones((6, 6), bool), 2))
    mesh = ga.grids.icosahedral(1)
    assert np.array_equal(dense(ga.k_hop(ga.k_hop(mesh, 1), 3)), dense(ga.k_hop(mesh, 3)))


def test_impossible_hops_are_refused(refused_by):
    line = ga.grids.cartesian(3)
    with refused_by("neighborhoods/k_hop.py", "has no edges") as said:
        ga.k_hop(line, 1)
    assert said.run("grids.icosahedral(", grids=ga.grids, level=1).size == 42
    edges = {"grid": line, "indptr": [0, 1, 2, 3], "indices": [1, 2, 0]}
    assert said.run("k_hop(from_edges(", hops=2, **edges).counts.tolist() == [3, 3, 3]
    with refused_by("neighborhoods/k_hop.py", "steps lead from a grid to itself") as said:
        ga.k_hop(ga.everything(line, PLANE), 2)
    assert ga.k_hop(said.run("from_edges(", **edges), 1).counts.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="hops must be at least 1, got 0"):
        ga.k_hop(ga.grids.icosahedral(1), 0)


# unions ----------------------------------------------------------------------------------------------


def test_a_union_shows_what_any_part_shows_once():
    parts = [PATTERNS["disc"], ga.window(LATLON, (1, 12)), PATTERNS["nearest"]]
    hood = ga.union(*parts)
    assert np.array_equal(dense(hood), np.any([dense(part) for part in parts], axis=0))
    assert ga.union(ga.union(*parts[:2]), parts[0], parts[2]) == hood
    assert ga.union(parts[0], parts[0]) == parts[0]


def test_a_union_keeps_the_symmetry_that_its_parts_share():
    disc, every_third = ga.geodesic(LATLON, radius=35.0), ga.window(LATLON, (3, 3), stride=(1, 3))
    assert disc.rotation.query_step == 1
    assert ga.union(disc, every_third).rotation == every_third.rotation
    assert ga.union(disc, every_third).rotation.query_step == 3
    by_four = ga.window(LATLON, (3, 4), stride=(1, 4))
    assert ga.union(every_third, by_four).rotation is None
    assert ga.union(disc, ga.nearest(LATLON, k=4)).rotation is None


def test_a_union_of_products_is_radial_attention():
    """Frames nearer in time see wider windows of space: half as wide for each doubling of the distance."""
    frames, space = ga.grids.cartesian(8), ga.grids.cartesian(16)
    times = np.abs(np.arange(8)[:, None] - np.arange(8))
    widths = np.where(times <= 1, 9, 9 >> np.log2(np.maximum(times, 1)).astype(int)) | 1
    bands = []
    for width in np.unique(widths):
        rows = [np.flatnonzero(row) for row in widths == width]
        band = ga.from_edges(frames, frames, np.cumsum([0, *map(len, rows)]), np.concatenate(rows))
        bands.append(ga.product(band, ga.window(space, int(width), boundary="clip")))
    places = np.abs(np.arange(16)[:, None] - np.arange(16))
    expected = places[None, :, None, :] <= widths[:, None, :, None] // 2
    assert np.array_equal(dense(ga.union(*bands)), expected.reshape(128, 128))


def test_impossible_unions_are_refused(refused_by):
    with pytest.raises(ValueError, match="at least one neighborhood"):
        ga.union()
    with pytest.raises(ValueError, match="a union is on one pair of grids, got 7 nearest on"):
        ga.union(PATTERNS["nearest"], PATTERNS["everything"])
    with refused_by("neighborhoods/union.py", "a union is of neighborhoods") as said:
        ga.union(LATLON)
    assert said.run("window(grid, size)", grid=LATLON, size=3).counts.max() == 9
    assert said.run("geodesic(", "9.0", grid=LATLON)
    assert said.run("everything(grid)", grid=LATLON)
