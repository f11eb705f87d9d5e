"""Compact pieces of equal load: recursive bisection that looks at the edges it cuts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood

Numbers = NDArray[np.int32]
Floats = NDArray[np.float64]

#: edges that are looked at to choose along which axis a piece is halved
_SAMPLED_EDGES = 1 << 24


class Sample(NamedTuple):
    """The keys of some queries of a grid: ``queries[i]`` sees ``indices[indptr[i]:indptr[i + 1]]``."""

    queries: NDArray[np.int64]
    indptr: NDArray[np.int64]
    indices: Numbers


def sample(grid: Grid, hoods: list[Neighborhood]) -> Sample:
    """Evenly spread queries of neighborhoods of a grid on itself, with what they see."""
    queries, counts, indices = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for hood in hoods:
        room = _SAMPLED_EDGES // len(hoods) * grid.size // max(int(hood.counts.sum()), 1)
        asked = np.unique(np.linspace(0, grid.size - 1, min(max(room, 1), grid.size)).astype(np.int64))
        rows = hood.rows(asked)
        queries.append(asked)
        counts.append(np.diff(rows.indptr))
        indices.append(rows.indices)
    indptr = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
    return Sample(np.concatenate(queries), indptr, np.concatenate(indices))


def bisect(points: Floats, load: Floats, n: int, seen: Sample) -> NDArray[np.int16]:
    """Which of ``n`` pieces each of ``points [size, dimensions]`` belongs to, ``[size]``.

    A piece that stands for m of the n is cut across one of the axes, into ⌊m / 2⌋ and ⌈m / 2⌉ parts of
    its ``load [size]``: across its widest axis, or across the one that lets the fewest tokens be needed on
    both sides, as far as the sample tells. Neither is always better in the end, and the pieces are those of
    the way whose halos are smaller. Points with equal coordinates are parted by their number, so that the
    pieces depend on nothing but the arguments.
    """
    ways = [
        _bisect(points, load, n, seen, look) for look in ((False, True) if len(seen.queries) else (False,))
    ]
    return min(ways, key=lambda owner: copies(seen.queries, seen.indptr, seen.indices, owner, n))


def _bisect(points: Floats, load: Floats, n: int, seen: Sample, look: bool) -> NDArray[np.int16]:
    owner = np.zeros(len(points), np.int16)
    side = np.full(len(points), -1, np.int8)  # −1 outside of the piece at hand, else 0 or 1
    pieces = [(np.arange(len(points)), np.arange(len(seen.queries)), 0, n)]
    while pieces:
        tokens, asked, first, parts = pieces.pop()
        if parts == 1 or not len(tokens):
            owner[tokens] = first
            continue
        share = parts // 2 / parts
        axes = np.argsort(-np.ptp(points[tokens], axis=0), kind="stable")
        halves = []
        for axis in axes if look else axes[:1]:
            along = tokens[np.argsort(points[tokens, axis], kind="stable")]
            left, right = np.split(along, [_place(load[along], share)])
            side[left], side[right] = 0, 1
            halves.append((left, right, _sides(asked, seen.queries, seen.indptr, seen.indices, side)))
        side[tokens] = -1
        left, right, sees = min(halves, key=lambda way: int((way[2] == 3).sum()))  # the widest of several
        pieces.append((np.sort(left), asked[sees & 1 > 0], first, parts // 2))
        pieces.append((np.sort(right), asked[sees & 2 > 0], first + parts // 2, parts - parts // 2))
    return owner


def _place(load: Floats, share: float) -> int:
    """How many of the first hold a share of the whole, to the nearest."""
    total = np.cumsum(load)
    return int(np.searchsorted(total - load / 2, share * total[-1]))


@njit(cache=True, nogil=True)
def _sides(asked, queries, indptr, indices, side):  # type: ignore[no-untyped-def]
    """For each query asked: 1 where its key or itself lies on the first side, plus 2 for the second."""
    found = np.zeros(len(asked), np.uint8)
    for place in range(len(asked)):
        query = asked[place]
        bits = 0 if side[queries[query]] < 0 else 1 << side[queries[query]]
        for e in range(indptr[query], indptr[query + 1]):
            if side[indices[e]] >= 0:
                bits |= 1 << side[indices[e]]
                if bits == 3:
                    break
        found[place] = bits
    return found


@njit(cache=True, nogil=True)
def copies(queries, indptr, indices, owner, n):  # type: ignore[no-untyped-def]
    """How many processes, beside its own, hold what each query sees, added up.

    Where pairs see each other that is the number of halo tokens.
    """
    last = np.full(n, -1, np.int64)
    count = 0
    for query in range(len(queries)):
        last[owner[queries[query]]] = query
        for e in range(indptr[query], indptr[query + 1]):
            other = owner[indices[e]]
            if last[other] != query:
                last[other] = query
                count += 1
    return count
