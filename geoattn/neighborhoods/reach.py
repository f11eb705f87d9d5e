"""Discs that reach almost nothing: what a radius in the wrong unit, or on the wrong grid, looks like."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.geodesic import Geodesic

#: queries that are asked, spread evenly over the grid
ASKED = 4096


def doubts(hood: Neighborhood) -> Iterator[str]:
    """What is odd about the discs in a neighborhood, with the numbers; nothing where nothing is.

    A disc is odd if it leaves more than half of its queries without keys, or, at a radius of at most π,
    with no key but themselves.
    """
    if isinstance(hood, Geodesic):
        yield from _of_discs(hood)
    for part in hood._content().values():
        for value in part if isinstance(part, tuple) else (part,):
            if isinstance(value, Neighborhood):
                yield from doubts(value)


def _of_discs(hood: Geodesic) -> Iterator[str]:
    size = hood.query_grid.size
    queries = np.unique(np.linspace(0, size - 1, min(size, ASKED)).astype(np.int64))
    indptr, indices = hood.rows(queries)
    counts = np.diff(indptr)
    without = np.count_nonzero(counts == 0) / len(queries)
    alone = 0.0
    if hood.query_grid == hood.key_grid:
        single = counts == 1
        alone = np.count_nonzero(indices[indptr[:-1][single]] == queries[single]) / len(queries)
    hint = ""
    if hood.radius <= math.pi:
        degrees = math.degrees(hood.radius)
        hint = f"; the radius is in degrees: {hood.radius:g} radians are radius={degrees:.4g}"
    if without > 0.5:
        yield (
            f"{without:.0%} of the queries of {hood!r} see no key, and get output 0"
            f"{hint or '; a larger radius, or geoattn.nearest(query_grid, key_grid, k=…), gives each some'}"
        )
    elif without + alone > 0.5 and hint:
        yield f"{without + alone:.0%} of the queries of {hood!r} see no key but themselves{hint}"
