"""Every query sees every key: global attention."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np

from geoattn.grids.base import Grid
from geoattn.neighborhoods.axis import Axis, window_axis
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Everything(Neighborhood, kind="everything"):
    """All pairs of a query and a key."""

    def rows(self, queries: Index) -> Rows:
        size = self.key_grid.size
        indices = np.tile(np.arange(size, dtype=np.int32), len(queries))
        return Rows(np.arange(len(queries) + 1) * size, indices)

    @cached_property
    def counts(self) -> Index:
        return np.broadcast_to(np.int64(self.key_grid.size), self.query_grid.shape)

    @cached_property
    def axes(self) -> tuple[Axis, ...] | None:
        """The pattern along each axis of one grid with axes: a window over all of it."""
        wraps = self.query_grid.axes_periodic
        if self.query_grid != self.key_grid or wraps is None:
            return None
        return tuple(
            window_axis(n, n, 1, 0, n if wrap else 2 * n - 1, 1, 1, False, 0, "clip", wrap)
            for n, wrap in zip(self.query_grid.shape, wraps, strict=True)
        )

    def transpose(self) -> Everything:
        return Everything(self.key_grid, self.query_grid)

    def __repr__(self) -> str:
        if self.query_grid == self.key_grid:
            return f"everything on {self.query_grid!r}"
        return f"everything from {self.query_grid!r} to {self.key_grid!r}"


def everything(query_grid: Grid, key_grid: Grid | None = None) -> Everything:
    """Each query sees all keys of ``key_grid``, by default of its own grid.

    Examples
    --------
    >>> int(ga.everything(ga.grids.gaussian(8, 16), ga.grids.healpix(2)).counts[0, 0])
    48
    """
    return Everything(query_grid, query_grid if key_grid is None else key_grid)
