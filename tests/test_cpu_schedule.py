"""How the CPU kernels' work is dealt: a key's gradient is that of one run of tiles, or a sum over several."""

from __future__ import annotations

import numpy as np
import pytest

import geoattn as ga
from geoattn.backends.cpu.schedule import schedule
from geoattn.plans import lane_plan

HOODS = {
    "plane": ga.window(ga.grids.cartesian((12, 20)), 5),
    # rings of the plan turn as a whole
    "sphere": ga.geodesic(ga.grids.equiangular(13, 24), radius=25.0),
    # keys that nobody sees
    "lone": ga.from_edges(
        ga.grids.cartesian((40,)), ga.grids.cartesian((50,)), np.arange(41), np.arange(40) // 2 * 2
    ),
}


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("name", HOODS)
def test_runs_own_the_keys_that_they_alone_touch_and_share_the_others(name: str, count: int) -> None:
    hood = HOODS[name]
    plan, n_keys = lane_plan(hood), hood.key_grid.size
    chunks = schedule(plan, n_keys).chunks(count)
    assert chunks.tiles[0] == 0
    assert chunks.tiles[-1] == len(plan.tile_class)
    indptr, keys = hood.to_csr().indptr, hood.to_csr().indices
    touched = []
    for first, last in zip(chunks.tiles[:-1], chunks.tiles[1:], strict=True):
        queries = plan.query_order[first * plan.query_tile : last * plan.query_tile]
        seen = [keys[indptr[query] : indptr[query + 1]] for query in queries if query >= 0]
        touched.append(set(np.concatenate([[], *seen]).astype(int).tolist()))
    runs_of = [[run for run in range(count) if key in touched[run]] for key in range(n_keys)]
    for run in range(count):
        own = chunks.own[chunks.own_indptr[run] : chunks.own_indptr[run + 1]].tolist()
        place = slice(chunks.indptr[run], chunks.indptr[run + 1])
        assert own == [
            k for k in range(n_keys) if runs_of[k] == [run] or (not runs_of[k] and run == count - 1)
        ]
        shared = [k for k in range(n_keys) if len(runs_of[k]) > 1 and run in runs_of[k]]
        assert chunks.keys[place].tolist() == shared
        assert chunks.begins[place].tolist() == [runs_of[k][0] == run for k in shared]
