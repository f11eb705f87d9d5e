"""A neighborhood among some points of its grids: what one of several processes computes."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.selection import Selection
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows
from geoattn.neighborhoods.transposed import Transposed


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selected(Neighborhood, kind="selected"):
    """The edges of ``hood`` from selected queries to selected keys; made by :func:`selected`."""

    query_grid: Selection
    key_grid: Selection
    hood: Neighborhood

    def rows(self, queries: Index) -> Rows:
        indptr, keys = self.hood.rows(self.query_grid.tokens[queries].astype(np.int64))
        places = self.key_grid.places(keys)
        here = places >= 0
        if not here.all():
            indptr = np.concatenate(([0], np.cumsum(here)))[indptr]
            places = places[here]
        # selections may be in any order, rows are ascending
        row = np.repeat(np.arange(len(queries)) * self.key_grid.size, np.diff(indptr))
        return Rows(indptr, (np.sort(row + places) - row).astype(np.int32))

    def transpose(self) -> Neighborhood:
        seen = self.hood.transpose()
        if isinstance(seen, Transposed):  # it would keep all edges of the whole
            return Transposed(self.key_grid, self.query_grid, self)
        return Selected(self.key_grid, self.query_grid, seen)

    def __repr__(self) -> str:
        return (
            f"{self.hood!r}, from {self.query_grid.size} of its queries to {self.key_grid.size} of its keys"
        )


def selected(hood: Neighborhood, queries: NDArray[np.int32], keys: NDArray[np.int32]) -> Neighborhood:
    """The neighborhood among some queries and keys, numbered as they are listed.

    Itself where all are listed as they come: it then keeps the symmetries that plans live on.
    """
    if all(
        len(tokens) == grid.size and np.array_equal(tokens, np.arange(grid.size))
        for tokens, grid in ((queries, hood.query_grid), (keys, hood.key_grid))
    ):
        return hood
    return select(hood, queries, keys)


def select(hood: Neighborhood, queries: NDArray[np.int32], keys: NDArray[np.int32]) -> Selected:
    """The same, whatever is listed."""
    of_queries = of_keys = Selection(hood.query_grid, queries.astype(np.int32, copy=False))
    if hood.key_grid != hood.query_grid or not np.array_equal(keys, queries):
        of_keys = Selection(hood.key_grid, keys.astype(np.int32, copy=False))
    return Selected(of_queries, of_keys, hood)
