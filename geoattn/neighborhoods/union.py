"""Unions: a query sees what any of several neighborhoods shows it."""

from __future__ import annotations

import dataclasses
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rotation, Rows, common


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Union(Neighborhood, kind="union"):
    """The edges of all ``parts``, each once; made by :func:`union`."""

    parts: tuple[Neighborhood, ...]

    def rows(self, queries: Index) -> Rows:
        from geoattn.neighborhoods._kernels import merge

        rows = [part.rows(queries) for part in self.parts]
        return reduce(lambda a, b: Rows(*merge(*a, *b)), rows)

    @property
    def rotation(self) -> Rotation | None:
        turn = self.parts[0].rotation
        for part in self.parts[1:]:
            turn = common(turn, part.rotation)
        return turn

    def transpose(self) -> Neighborhood:
        parts = tuple(part.transpose() for part in self.parts)
        return self if parts == self.parts else Union(self.key_grid, self.query_grid, parts)

    def _without(self, queries: NDArray[np.bool_], keys: NDArray[np.bool_]) -> Neighborhood:
        return Union(self.query_grid, self.key_grid, tuple(p._without(queries, keys) for p in self.parts))

    def __repr__(self) -> str:
        return "union of (" + ") and (".join(map(repr, self.parts)) + ")"


def union(*hoods: Neighborhood) -> Neighborhood:
    """Each query sees the keys that any of the neighborhoods shows it, each key once.

    All are from one grid to one other. Unions among the arguments are taken apart and equal ones
    counted once, so that the union of one neighborhood is that neighborhood. With products it makes
    patterns that narrow with distance in time, such as Radial Attention (2506.19852): the union over
    spans of time of ``product(span, window)`` with a window for each.

    Raises
    ------
    TypeError
        If an argument is no neighborhood.
    ValueError
        If there is none, or their grids differ.

    Examples
    --------
    >>> mesh = ga.grids.icosahedral(2)
    >>> int(ga.union(ga.k_hop(mesh, 1), ga.geodesic(mesh, radius=25)).counts.min())
    6
    """
    parts: dict[Neighborhood, None] = {}  # a set that keeps its order
    for hood in hoods:
        if not isinstance(hood, Neighborhood):
            raise TypeError(
                f"a union is of neighborhoods, got {hood!r}; for a grid say window(grid, size), "
                "geodesic(grid, radius=…) or everything(grid)"
            )
        parts |= dict.fromkeys(hood.parts if isinstance(hood, Union) else (hood,))
    if not parts:
        raise ValueError("a union needs at least one neighborhood")
    first, *others = parts
    for other in others:
        if (other.query_grid, other.key_grid) != (first.query_grid, first.key_grid):
            raise ValueError(f"a union is on one pair of grids, got {first!r} and {other!r}")
    return Union(first.query_grid, first.key_grid, tuple(parts)) if others else first
