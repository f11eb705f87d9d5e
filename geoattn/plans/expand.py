"""From a plan back to its edges: the inverse of the builder, for tests and pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.rows import Rows
from geoattn.plans.base import LanePlan, NumberedLanePlan, NumberedTilePlan, Plan, TilePlan


def visited(plan: Plan, tile: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Entries of query tile ``tile`` and the key tiles that they stand for, both ``[n]``."""
    label = plan.tile_class[tile]
    entries = np.arange(plan.indptr[label], plan.indptr[label + 1])
    stored = plan.key_tiles[entries].astype(np.int64)
    start = stored // plan.ring * plan.ring
    return entries, start + (stored - start + plan.tile_shift[tile]) % plan.ring


def masks(plan: Plan, entries: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which query sees which key in the given entries, ``[n, query_tile, key_tile]``."""
    if isinstance(plan, LanePlan):
        lane = np.arange(plan.query_tile, dtype=np.uint32)
        return (plan.lanes[entries, None, None] >> lane[:, None] & np.uint32(1)).astype(bool)
    if not isinstance(plan, TilePlan):
        raise TypeError(f"expected a plan of lanes or of tiles, got {type(plan).__name__}")
    ids = plan.mask_ids[entries]
    words = np.full((len(entries), plan.query_tile), ~np.uint64(0), dtype=np.uint64)
    words[ids >= 0] = plan.masks[ids[ids >= 0]]
    return (words[:, :, None] >> np.arange(plan.key_tile, dtype=np.uint64) & np.uint64(1)).astype(bool)


def pairs_of(plan: Plan, tile: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of the queries and keys of all pairs of a query tile, ``[n]`` each, −1 for padding."""
    entries, key_tiles = visited(plan, tile)
    entry, query, key = np.nonzero(masks(plan, entries))
    queries = plan.query_order[tile * plan.query_tile + query].astype(np.int64)
    return queries, plan.key_order[key_tiles[entry] * plan.key_tile + key].astype(np.int64)


def numbers_of(plan: NumberedLanePlan | NumberedTilePlan, tile: int) -> NDArray[np.int32]:
    """The numbers of the pairs of a query tile, in the order of :func:`pairs_of`."""
    entries, _ = visited(plan, tile)
    entry, query, key = np.nonzero(masks(plan, entries))
    if isinstance(plan, NumberedLanePlan):
        return plan.numbers[entries[entry], query]
    return plan.numbers[plan.number_ids[entries[entry]], query, key]


def edges(plan: Plan) -> Rows:
    """All edges of a plan, row by row of the query grid, keys ascending.

    Raises
    ------
    ValueError
        If a padded query or key is visible, or a pair occurs twice.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian(64), 9)
    >>> bool(len(ga.plans.edges(ga.plans.plan(hood)).indices) == hood.counts.sum())
    True
    """
    pairs = [pairs_of(plan, tile) for tile in range(len(plan.tile_class))]
    query, key = (np.concatenate(tokens) for tokens in zip(*pairs, strict=True))
    if (query < 0).any() or (key < 0).any():
        raise ValueError("a padded position is visible")
    order = np.lexsort((key, query))
    query, key = query[order], key[order]
    if ((np.diff(query) == 0) & (np.diff(key) == 0)).any():
        raise ValueError("a pair occurs twice")
    counts = np.bincount(query, minlength=int((plan.query_order >= 0).sum()))
    return Rows(np.concatenate([[0], np.cumsum(counts)]), key.astype(np.int32))
