"""Unions: a query sees what any of several neighborhoods shows it."""

from __future__ import annotations

import dataclasses
from functools import reduce
from math import lcm

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rotation, Rows


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
            turn = _common(turn, part.rotation)
        return turn

    def transpose(self) -> Neighborhood:
        parts = tuple(part.transpose() for part in self.parts)
        return self if parts == self.parts else Union(self.key_grid, self.query_grid, parts)

    def _without(self, queries: NDArray[np.bool_], keys: NDArray[np.bool_]) -> Neighborhood:
        return Union(self.query_grid, self.key_grid, tuple(p._without(queries, keys) for p in self.parts))

    def __repr__(self) -> str:
        return "union of (" + ") and (".join(map(repr, self.parts)) + ")"


def _common(a: Rotation | None, b: Rotation | None) -> Rotation | None:
    """The smallest turn that is a multiple of both."""
    if a is None or b is None or (a.query_ring, a.key_ring) != (b.query_ring, b.key_ring):
        return None
    step = lcm(a.query_step, b.query_step)
    keys = [step // turn.query_step * turn.key_step % turn.key_ring for turn in (a, b)]
    if keys[0] != keys[1] or step >= a.query_ring or keys[0] == 0:
        return None
    return Rotation(a.query_ring, step, a.key_ring, keys[0])


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
