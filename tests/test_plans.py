"""Plans hold exactly the edges of their neighborhood, in either tile shape."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn import plans
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import builder, expand
from geoattn.relations.base import Relation

SHAPES = [(64, 64), (32, 1)]


def random_edges(query_grid: Grid, key_grid: Grid, density: float, seed: int = 0) -> Neighborhood:
    seen = np.random.default_rng(seed).random((query_grid.size, key_grid.size)) < density
    seen[:: max(1, query_grid.size // 5)] = False  # some queries see nothing
    indptr = np.concatenate([[0], np.cumsum(seen.sum(1))])
    return ga.from_edges(query_grid, key_grid, indptr, np.nonzero(seen)[1])


PLANE = ga.grids.cartesian((13, 22))
SPHERE = ga.grids.equiangular(13, 24)
EVERY_FIFTH = np.arange(PLANE.size).reshape(PLANE.shape) % 5 == 0


def on_plane(shape: tuple[int, ...], size: Any, periodic: Any = False, **options: Any) -> Neighborhood:
    return ga.window(ga.grids.cartesian(shape, periodic=periodic), size, **options)


HOODS: dict[str, Callable[[], Neighborhood]] = {
    "random pairs of a plane": lambda: random_edges(PLANE, PLANE, 0.1),
    "random pairs between kinds of grid": lambda: random_edges(PLANE, ga.grids.gaussian(12, 20), 0.4),
    "random pairs from space to a line": lambda: random_edges(
        ga.grids.cartesian((4, 5, 6)), ga.grids.cartesian(130), 0.02
    ),
    "random pairs of points": lambda: random_edges(ga.grids.reduced_gaussian("O8"), SPHERE, 0.1),
    "no pairs": lambda: random_edges(PLANE, PLANE, 0.0),
    "one pair": lambda: ga.from_edges(ga.grids.cartesian(1), ga.grids.cartesian(1), [0, 1], [0]),
    "window": lambda: on_plane((40, 64), 7),
    "window on a line": lambda: ga.window(ga.grids.cartesian(500), 70),
    "window in space": lambda: on_plane((6, 17, 20), (3, 5, 4)),
    "even window": lambda: on_plane((30, 33), (4, 6)),
    "dilated window": lambda: on_plane((30, 47), (3, 5), dilation=(4, 7)),
    "strided window": lambda: on_plane((30, 47), 7, stride=(3, 5)),
    "causal window": lambda: on_plane((30, 40), 9, causal=(True, False), dilation=(1, 2)),
    "clipped window": lambda: on_plane((30, 40), 9, boundary="clip"),
    "shifted blocks": lambda: on_plane((28, 28), 7, stride=7, offset=3, boundary="clip"),
    "blocks of a dilated plane": lambda: on_plane((28, 35), 7, stride=7, dilation=(4, 5)),
    "window with a halo": lambda: on_plane(
        (24, 32), 14, stride=8, boundary="clip", key_grid=ga.grids.cartesian((30, 38)), origin=3
    ),
    "window of every third query": lambda: ga.window(
        ga.grids.cartesian((20, 30), 3.0), 7, key_grid=ga.grids.cartesian((60, 90), periodic=(False, True))
    ),
    "keys of every second query": lambda: ga.window(
        ga.grids.equiangular(13, 24), (3, 5), key_grid=ga.grids.equiangular(25, 48), origin=(1, 47)
    ).transpose(),
    "causal window into a longer past": lambda: ga.window(
        ga.grids.cartesian(90), 70, causal=True, key_grid=ga.grids.cartesian(500), origin=410
    ),
    "queries beside the keys": lambda: ga.window(
        ga.grids.cartesian(70), 5, boundary="clip", key_grid=ga.grids.cartesian(40), origin=-20
    ),
    "window on a torus": lambda: on_plane((24, 40), 7, periodic=True),
    "dilated window on a ring": lambda: on_plane((9, 40), 3, dilation=(1, 3), periodic=(False, True)),
    "window as wide as its ring": lambda: ga.window(ga.grids.cartesian(96, periodic=True), 96),
    "window on latitudes and longitudes": lambda: ga.window(SPHERE, (3, 5)),
    "transposed window": lambda: on_plane((30, 47), 7, stride=3, causal=True).transpose(),
    "window without some keys": lambda: ga.window(PLANE, 5).without_keys(EVERY_FIFTH),
    "discs": lambda: ga.geodesic(ga.grids.equiangular(25, 48), radius=20),
    "discs without poles": lambda: ga.geodesic(ga.grids.equiangular(24, 48, poles=False), radius=16),
    "discs on rows of 45": lambda: ga.geodesic(ga.grids.gaussian(22, 45), radius=20),
    "discs on rows of 94": lambda: ga.geodesic(ga.grids.gaussian(12, 94), radius=20),
    "discs on rows of 23": lambda: ga.geodesic(ga.grids.gaussian(12, 23), radius=20),
    "discs of one point": lambda: ga.geodesic(SPHERE, radius=0.1),
    "discs around nearly everything": lambda: ga.geodesic(SPHERE, radius=179.0),
    "discs to a finer grid": lambda: ga.geodesic(SPHERE, ga.grids.equiangular(25, 48), radius=20),
    "discs to a coarser grid": lambda: ga.geodesic(ga.grids.equiangular(25, 48), SPHERE, radius=20),
    "discs to half as many again": lambda: ga.geodesic(SPHERE, ga.grids.gaussian(18, 36), radius=20),
    "discs to rows that hardly match": lambda: ga.geodesic(SPHERE, ga.grids.gaussian(18, 35), radius=20),
    "discs on few points": lambda: ga.geodesic(SPHERE, ga.grids.healpix(4), radius=3),
    "transposed discs": lambda: ga.geodesic(SPHERE, ga.grids.equiangular(25, 48), radius=20).transpose(),
    "discs without some keys": lambda: ga.geodesic(SPHERE, radius=30).without_keys(SPHERE.lat > 40),
    "discs without a continent": lambda: ga.geodesic(SPHERE, radius=30).without_keys(
        (SPHERE.lat > 0) & (SPHERE.lon < 90)
    ),
    "discs on nested pixels": lambda: ga.geodesic(ga.grids.healpix(8), radius=12),
    "discs on coarse nested pixels": lambda: ga.geodesic(ga.grids.healpix(4), radius=30),
    "discs on rings of pixels": lambda: ga.geodesic(ga.grids.healpix(6, order="ring"), radius=15),
    "discs from nested pixels to finer ones": lambda: ga.geodesic(
        ga.grids.healpix(4), ga.grids.healpix(8), radius=20
    ),
    "discs on a reduced grid": lambda: ga.geodesic(ga.grids.reduced_gaussian("O12"), radius=15),
    "discs on a cube": lambda: ga.geodesic(ga.grids.cubed_sphere(9), radius=15),
    "discs on an icosahedron": lambda: ga.geodesic(ga.grids.icosahedral(3), radius=15),
    "nearest pixels": lambda: ga.nearest(SPHERE, ga.grids.healpix(8), k=9),
    "transposed nearest pixels": lambda: ga.nearest(SPHERE, ga.grids.healpix(8), k=9).transpose(),
    "curve window": lambda: ga.curve_window(ga.grids.cartesian((20, 24)), 30, stride=7),
    "shifted curve window": lambda: ga.curve_window(
        ga.grids.healpix(4), 16, 16, "nested", offset=8, boundary="clip"
    ),
    "hops on a mesh": lambda: ga.k_hop(ga.grids.icosahedral(3), 4),
    "union of discs and bands": lambda: ga.union(ga.geodesic(SPHERE, radius=20), ga.window(SPHERE, (1, 9))),
    "transposed curve window": lambda: ga.curve_window(ga.grids.healpix(4), 21, stride=5).transpose(),
    "time and sphere": lambda: ga.product(
        ga.window(ga.grids.cartesian(9), 3, causal=True), ga.geodesic(SPHERE, radius=20)
    ),
    "sphere and levels": lambda: ga.product(
        ga.geodesic(SPHERE, radius=20), ga.window(ga.grids.cartesian(7), 3)
    ),
    "pixels and levels": lambda: ga.product(
        ga.geodesic(ga.grids.healpix(4), radius=20), ga.window(ga.grids.cartesian(5), 3)
    ),
    "time and finer pixels": lambda: ga.product(
        ga.everything(ga.grids.cartesian(3), ga.grids.cartesian(2)),
        ga.geodesic(SPHERE, ga.grids.equiangular(25, 48), radius=12),
    ),
    "product of windows": lambda: ga.product(ga.window(ga.grids.cartesian(20), 3), on_plane((12, 17), 5)),
    "everything": lambda: ga.everything(ga.grids.cartesian((8, 40)), ga.grids.cartesian((16, 8))),
    "everything on a sphere": lambda: ga.everything(SPHERE),
}


def check(hood: Neighborhood, plan: plans.Plan) -> None:
    """The contract of a plan, stated once."""
    indptr, indices = hood.to_csr()
    found = plans.edges(plan)
    np.testing.assert_array_equal(found.indptr, indptr)
    np.testing.assert_array_equal(found.indices, indices)
    for order, size, tile in (
        (plan.query_order, hood.query_grid.size, plan.query_tile),
        (plan.key_order, hood.key_grid.size, plan.key_tile),
    ):
        assert len(order) % tile == 0
        np.testing.assert_array_equal(np.sort(order[order >= 0]), np.arange(size))
    classes = len(plan.indptr) - 1
    np.testing.assert_array_equal(np.unique(plan.tile_class), np.arange(classes))
    for c in range(classes):
        assert (np.diff(plan.key_tiles[plan.indptr[c] : plan.indptr[c + 1]]) > 0).all()
    if plan.key_tile == 1:
        assert (plan.lanes > 0).all()
    else:
        assert len(np.unique(plan.masks, axis=0)) == len(plan.masks)
        assert not (plan.masks == ~np.uint64(0)).all(axis=1).any()
        assert plan.masks.any(axis=1).all()
        bits = (plan.masks[:, :, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
        visible = bits.reshape(-1, 4, 16, 8, 8).any(axis=(2, 4)).reshape(-1, 32)
        groups = (plan.groups[:, None] >> np.arange(32, dtype=np.uint32)) & np.uint32(1)
        np.testing.assert_array_equal(groups, visible)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", HOODS)
def test_a_plan_holds_exactly_the_edges_of_its_neighborhood(name: str, shape: tuple[int, int]) -> None:
    hood = HOODS[name]()
    check(hood, plans.build(hood, *shape))


NUMBERED: dict[str, Callable[[], Relation]] = {
    "offsets": lambda: ga.relations.offsets(on_plane((24, 40), 7)),
    "offsets by columns": lambda: ga.relations.offsets(on_plane((20, 30), (3, 5), dilation=(1, 2)), by=1),
    "angles and bearings": lambda: ga.relations.angles(ga.geodesic(SPHERE, radius=30.0), 3, sectors=4),
    "edges": lambda: ga.relations.edges(random_edges(PLANE, SPHERE, 0.1)),
    "no pairs": lambda: ga.relations.edges(random_edges(PLANE, PLANE, 0.0)),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NUMBERED)
def test_a_plan_holds_the_number_of_each_pair_of_a_relation(name: str, shape: tuple[int, int]) -> None:
    for relation in (NUMBERED[name](), NUMBERED[name]().transpose()):
        plan = plans.build(relation, *shape)
        assert isinstance(plan, plans.NumberedLanePlan | plans.NumberedTilePlan)
        assert plan.count == relation.count
        check(relation.hood, plan)
        for tile in range(len(plan.tile_class)):
            queries, keys = expand.pairs_of(plan, tile)
            np.testing.assert_array_equal(expand.numbers_of(plan, tile), relation.numbers(queries, keys))


def test_equal_tiles_of_numbers_are_stored_once() -> None:
    plan = plans.build(ga.relations.offsets(on_plane((96, 96), 7)))
    assert isinstance(plan, plans.NumberedTilePlan)
    assert len(plan.numbers) < len(plan.key_tiles) < plan.lengths.sum()
    assert len(np.unique(plan.numbers, axis=0)) == len(plan.numbers)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rank=st.integers(1, 3), shape=st.sampled_from(SHAPES))
def test_any_window_has_an_exact_plan(data: st.DataObject, rank: int, shape: tuple[int, int]) -> None:
    lengths = data.draw(st.tuples(*[st.integers(2, (200, 24, 9)[rank - 1])] * rank))
    sizes = tuple(data.draw(st.integers(1, min(n, 9))) for n in lengths)
    dilations = tuple(data.draw(st.integers(1, n // k)) for n, k in zip(lengths, sizes, strict=True))
    strides = tuple(data.draw(st.integers(1, k)) for k in sizes)
    causal = data.draw(st.tuples(*[st.booleans()] * rank))
    boundary = data.draw(st.sampled_from(["shift", "clip"]))
    hood = on_plane(lengths, sizes, dilation=dilations, stride=strides, causal=causal, boundary=boundary)
    for way in (hood, hood.transpose()):
        check(way, plans.build(way, *shape))


def test_unknown_tile_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="128×128 are not supported"):
        plans.build(ga.window(PLANE, 3), 128, 128)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_statistics_agree_with_dense_masks(shape: tuple[int, int]) -> None:
    hood = ga.geodesic(SPHERE, ga.grids.gaussian(18, 36), radius=100)
    plan = plans.build(hood, *shape)
    found = plans.statistics(plan)
    dense = np.zeros((SPHERE.size + 1, hood.key_grid.size + 1), dtype=bool)  # padding has no pairs
    indptr, indices = hood.to_csr()
    dense[np.repeat(np.arange(SPHERE.size), np.diff(indptr)), indices] = True
    query_tile, key_tile = shape
    laid_out = dense[plan.query_order][:, plan.key_order]
    tiles = laid_out.reshape(-1, query_tile, len(plan.key_order) // key_tile, key_tile)
    assert found.useful_pairs == hood.counts.sum()
    assert found.visited_tiles == tiles.any(axis=(1, 3)).sum()
    assert found.full_tiles == tiles.all(axis=(1, 3)).sum()
    assert found.max_list == tiles.any(axis=(1, 3)).sum(1).max()
    assert found.mean_list == tiles.any(axis=(1, 3)).sum(1).mean()
    rows, columns = found.group
    groups = laid_out.reshape(-1, rows, len(plan.key_order) // columns, columns)
    assert found.visited_groups == groups.any(axis=(1, 3)).sum()
    dense_tiles = -(-SPHERE.size // query_tile) * -(-hood.key_grid.size // key_tile)
    assert found.tile_speedup == dense_tiles / found.visited_tiles
    assert found.group_occupancy == found.useful_pairs / (found.visited_groups * rows * columns)


def test_the_longest_lists_are_scheduled_first() -> None:
    plan = plans.build(ga.geodesic(SPHERE, radius=20))
    assert (np.diff(plan.lengths[plan.schedule]) <= 0).all()
    np.testing.assert_array_equal(np.sort(plan.schedule), np.arange(len(plan.tile_class)))


def test_longitude_shifts_leave_one_list_per_band_of_latitudes() -> None:
    plan = plans.build(ga.geodesic(ga.grids.equiangular(32, 64, poles=False), radius=12), 32, 1)
    first = plan.query_order.reshape(-1, 32)[:, 0]
    assert len(plan.indptr) - 1 == len(np.unique(first // 64))


@pytest.mark.parametrize("size", [6, 3])
def test_windows_on_rings_in_products_are_boxed_by_rings_too(size: int) -> None:
    """Boxes that close the rings visit fewer tiles than those of the window's own sizes: 7875 and 7952."""
    hood = ga.window(ga.grids.equiangular(46, 90), (7, 9))
    plan = plans.build(ga.product(ga.window(ga.grids.cartesian(6), size), hood))
    assert plan.lengths.sum() <= 6000
    assert len(plan.indptr) - 1 <= 15


def test_of_two_symmetries_the_one_that_leaves_fewer_lists_is_taken() -> None:
    plan = plans.build(ga.window(ga.grids.equiangular(64, 128), 7))
    assert len(plan.indptr) - 1 == 4  # by turns; by moves along the axes, nine


def test_quarter_turns_leave_a_quarter_of_the_lists_of_nested_pixels() -> None:
    plan = plans.build(ga.geodesic(ga.grids.healpix(16), radius=12))
    assert len(plan.indptr) - 1 == len(plan.tile_class) / 4


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lists_of_a_plane_do_not_grow_with_it(shape: tuple[int, int]) -> None:
    small, large = (plans.build(on_plane((n, n), 7), *shape) for n in (64, 256))
    assert len(small.indptr) == len(large.indptr)
    assert len(large.key_tiles) == len(small.key_tiles)


def test_blocks_of_a_plane_become_one_tile_each() -> None:
    plan = plans.build(on_plane((56, 56), 7, stride=7))
    assert plans.statistics(plan).visited_tiles == 64
    dilated = plans.build(on_plane((56, 56), 7, dilation=8))
    assert plans.statistics(dilated).visited_tiles == 64


@pytest.mark.parametrize(("size", "radius"), [((14, 36), 100.0), ((14, 63), 60.0), ((20, 80), 100.0)])
def test_tiles_are_full_beside_padding_where_every_pair_of_tokens_is_visible(size, radius) -> None:
    """Asked of every tile, not only of those whose list is stored."""
    plan = ga.plans.tile_plan(ga.geodesic(ga.grids.equiangular(*size), radius=radius))
    found = ga.plans.full_beside_padding(plan)
    rows, keys = (order.reshape(-1, 64) >= 0 for order in (plan.query_order, plan.key_order))
    everywhere = np.ones(len(found), dtype=bool)
    for tile in range(len(plan.tile_class)):
        entries, key_tiles = expand.visited(plan, tile)
        seen = expand.masks(plan, entries)
        full = (seen == (rows[tile][:, None] & keys[key_tiles][:, None, :])).all((1, 2)) | seen.all((1, 2))
        everywhere[entries] &= full & seen.reshape(len(entries), 4, 16, 8, 8).any((2, 4)).all((1, 2))
    assert np.array_equal(found < 0, everywhere)
    assert np.array_equal(found[found >= 0], plan.mask_ids[found >= 0])
    assert ((found < 0) & (plan.mask_ids >= 0)).any() == (size[0] == 14)


def test_an_estimate_prints_its_figures() -> None:
    text = str(plans.estimate(on_plane((64, 64), 7)))
    assert "200,704" in text  # 64 · 64 · 7 · 7 pairs
    assert "over dense" in text


def test_a_plan_travels_by_pickle() -> None:
    hood = on_plane((20, 20), 5)
    check(hood, pickle.loads(pickle.dumps(plans.build(hood))))


def test_where_numbers_outgrow_a_cache_tiles_of_one_class_follow_each_other():
    disc = ga.geodesic(ga.grids.equiangular(61, 120), radius=10.0)
    large, small = (
        ga.relations.angles(disc, 4),
        ga.relations.offsets(ga.window(ga.grids.cartesian((24, 24)), 5)),
    )
    for relation, sorted_ in ((large, True), (small, False)):
        plan = ga.plans.numbered_plan(relation)
        assert (plan.numbers.nbytes > builder._CACHED) == sorted_
        assert (np.diff(plan.tile_class) >= 0).all() == sorted_
        query, key = relation.hood.to_csr()
        edges = ga.plans.edges(plan)
        assert np.array_equal(edges.indptr, query)
        assert np.array_equal(edges.indices, key)
