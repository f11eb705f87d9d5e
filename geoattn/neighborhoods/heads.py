"""Other neighborhoods for other heads, in one call."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Heads(Neighborhood, kind="heads"):
    """Head groups of equal size, each with a neighborhood of its own; made by :func:`heads`.

    There are no edges of all heads: ``counts`` is ``[n, *query_grid.shape]``, and rows are those of the
    ``parts``.
    """

    parts: tuple[Neighborhood, ...]

    def rows(self, queries: Index) -> NoReturn:
        raise TypeError(
            f"{self!r} has other edges for other heads; take those of one of its {len(self.parts)} parts, "
            "hood.parts[0], …"
        )

    @cached_property
    def counts(self) -> Index:
        """Number of keys that each query sees, by part: ``[n, *query_grid.shape]``."""
        counts = np.stack([part.counts for part in self.parts])
        counts.flags.writeable = False
        return counts

    def transpose(self) -> Neighborhood:
        parts = tuple(part.transpose() for part in self.parts)
        return self if parts == self.parts else Heads(self.key_grid, self.query_grid, parts)

    def _without(self, queries: NDArray[np.bool_], keys: NDArray[np.bool_]) -> Neighborhood:
        return Heads(self.query_grid, self.key_grid, tuple(p._without(queries, keys) for p in self.parts))

    def __repr__(self) -> str:
        return "heads over (" + "), (".join(map(repr, self.parts)) + ")"


def heads(*hoods: Neighborhood) -> Neighborhood:
    """One neighborhood for each of n groups of heads, such as stripes across and along, or several radii.

    :func:`geoattn.attention` cuts the H query heads and the H_kv key and value heads into n equal groups of
    consecutive heads, and group i attends over the i-th neighborhood. The same neighborhood may stand for
    several groups; where all are one, that is the result.

    Parameters
    ----------
    hoods
        At least one, all from one grid to one other.

    Raises
    ------
    TypeError
        If an argument is no neighborhood, or one of heads itself.
    ValueError
        If there is none, or their grids differ.

    Examples
    --------
    >>> plane = ga.grids.cartesian((12, 12))
    >>> ga.heads(ga.window(plane, (12, 3)), ga.window(plane, (3, 12)))
    heads over (window 12×3 on cartesian grid 12×12, spacing (1.0, 1.0)), (window 3×12 on cartes...
    """
    for hood in hoods:
        if not isinstance(hood, Neighborhood) or isinstance(hood, Heads):
            hint = "its parts, heads(*hood.parts)" if isinstance(hood, Heads) else "window(grid, size)"
            raise TypeError(f"each group of heads has one neighborhood, got {hood!r}; say {hint}")
    if not hoods:
        raise ValueError("heads needs at least one neighborhood")
    first = hoods[0]
    for other in hoods:
        if (other.query_grid, other.key_grid) != (first.query_grid, first.key_grid):
            raise ValueError(f"all heads attend on one pair of grids, got {first!r} and {other!r}")
    if all(other == first for other in hoods):
        return first
    return Heads(first.query_grid, first.key_grid, hoods)
