"""Plans hold exactly the edges of their neighborhood, in either tile shape."""

from __future__ import annotations

import numpy as np
import pytest

import geoattn as ga
from geoattn import plans
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood

SHAPES = [(64, 64), (32, 1)]


def random_edges(query_grid: Grid, key_grid: Grid, density: float, seed: int = 0) -> Neighborhood:
    seen = np.random.default_rng(seed).random((query_grid.size, key_grid.size)) < density
    seen[:: max(1, query_grid.size // 5)] = False  # some queries see nothing
    indptr = np.concatenate([[0], np.cumsum(seen.sum(1))])
    return ga.from_edges(query_grid, key_grid, indptr, np.nonzero(seen)[1])


HOODS = {
    "random pairs of a plane": random_edges(ga.grids.cartesian((13, 11)), ga.grids.cartesian((13, 11)), 0.1),
    "random pairs between grids": random_edges(ga.grids.cartesian((13, 11)), ga.grids.gaussian(12, 20), 0.4),
    "random pairs in space": random_edges(
        ga.grids.cartesian((4, 5, 6)), ga.grids.cartesian((130,)), 0.02, seed=3
    ),
    "all pairs": random_edges(ga.grids.cartesian((8, 40)), ga.grids.cartesian((16, 8)), 1.0),
    "no pairs": random_edges(ga.grids.cartesian((8, 8)), ga.grids.cartesian((8, 8)), 0.0),
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
    check(HOODS[name], plans.build(HOODS[name], *shape))


def test_unknown_tile_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="128×128 are not supported"):
        plans.build(HOODS["no pairs"], 128, 128)
