"""What one process holds, and what it needs of others, worked out from a neighborhood and a cut."""

from __future__ import annotations

import dataclasses
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.everything import Everything
from geoattn.parallel.cut import Cut

Tokens = NDArray[np.int32]
#: which queries see a key that is not at home, the keys that these see, and the number of all edges
Seen = tuple[NDArray[np.bool_], NDArray[np.bool_], int]


@dataclasses.dataclass(frozen=True, eq=False)
class Share:
    """The part of an attention that falls to process ``rank``, in flat indices of the whole grids."""

    rank: int
    #: the tokens that it holds, ascending
    queries: Tokens
    keys: Tokens
    #: bool ``[len(queries)]``: queries that see a key of others
    border: NDArray[np.bool_]
    #: the keys of its own that its border queries see, ascending
    near: Tokens
    #: the keys that it needs of each process, ascending; none of itself
    halo: tuple[Tokens, ...]
    edges: int

    @property
    def wanted(self) -> Tokens:
        """The halo in the order in which it arrives."""
        return np.concatenate(self.halo)


def share(hood: Neighborhood, cut: Cut, rank: int) -> Share:
    """What process ``rank`` of a cut has to do with a neighborhood."""
    queries = keys = cut.tokens(hood.query_grid, rank)
    if hood.key_grid != hood.query_grid:
        keys = cut.tokens(hood.key_grid, rank)
    owner = cut.owner(hood.key_grid)
    border, seen, edges = _seen(hood, queries, owner == rank)
    wanted = np.flatnonzero(seen & (owner != rank)).astype(np.int32)
    wanted = wanted[np.argsort(owner[wanted], kind="stable")]
    ends = np.cumsum(np.bincount(owner[wanted], minlength=cut.n))
    halo = tuple(np.split(wanted, ends[:-1]))
    return Share(rank, queries, keys, border, keys[seen[keys]], halo, edges)


@singledispatch
def _seen(hood: Neighborhood, queries: Tokens, home: NDArray[np.bool_]) -> Seen:
    from geoattn.parallel.kernels import mark  # imports numba

    border, seen = np.zeros(len(queries), bool), np.zeros(len(home), bool)
    start = edges = 0
    for piece, rows in hood.blocks(queries=queries.astype(np.int64)):
        mark(rows.indptr, rows.indices, home, border[start : start + len(piece)], seen)
        start, edges = start + len(piece), edges + len(rows.indices)
    return border, seen, edges


@_seen.register
def _(hood: Everything, queries: Tokens, home: NDArray[np.bool_]) -> Seen:
    abroad = not home.all()
    border = np.full(len(queries), abroad)
    return border, np.full(len(home), abroad and len(queries) > 0), len(queries) * len(home)
