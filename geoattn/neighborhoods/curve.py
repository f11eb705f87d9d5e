"""Windows along a space-filling curve: neighbors in rank are near in space."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid
from geoattn.neighborhoods.axis import Axis, window_axis
from geoattn.neighborhoods.base import Neighborhood, require_grid
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CurveWindow(Neighborhood, kind="curve_window"):
    """A window over ranks along a curve; made by :func:`curve_window`."""

    window_size: int
    stride: int
    curve: str
    #: whether queries and keys have changed places
    transposed: bool = False

    @cached_property
    def order(self) -> NDArray[np.int32]:
        """Rank → token."""
        from geoattn.grids.orders import order

        return order(self.query_grid, self.curve)

    @cached_property
    def ranks(self) -> Index:
        """Token → rank."""
        return np.argsort(self.order)

    @cached_property
    def axis(self) -> Axis:
        """The window over ranks."""
        axis = window_axis(self.query_grid.size, self.window_size, self.stride, 1, False, 0, "shift", False)
        return axis.transpose() if self.transposed else axis

    def rows(self, queries: Index) -> Rows:
        from geoattn.neighborhoods._kernels import relabel

        rows = self.axis.rows(self.ranks[queries])
        return Rows(rows.indptr, relabel(*rows, self.order))

    @cached_property
    def counts(self) -> Index:
        counts = self.axis.count[self.ranks].reshape(self.query_grid.shape)
        counts.flags.writeable = False
        return counts

    def transpose(self) -> Neighborhood:
        if self.axis == self.axis.transpose():
            return self
        return dataclasses.replace(self, transposed=not self.transposed)

    def __repr__(self) -> str:
        name = "transposed window" if self.transposed else "window"
        stride = f", stride {self.stride}" if self.stride != 1 else ""
        return f"{name} of {self.window_size} along the {self.curve} curve{stride} on {self.query_grid!r}"


def curve_window(grid: Grid, size: int, stride: int = 1, curve: str = "hilbert") -> CurveWindow:
    """A 1-D window on the rank of the tokens along a curve through the grid.

    Sort the tokens along the curve; then query and key numbers are ranks and the pattern is
    ``window`` of one axis with boundary "shift": ``size`` keys around each query, or, with
    ``stride == size``, blocks of the curve (the last one shifted inward). After Hilbert-guided local
    attention (2511.05832).

    Parameters
    ----------
    grid
        Any grid that has the curve.
    size
        Keys per query, 1 to ``grid.size``.
    stride
        Queries that share a window, 1 to ``size``.
    curve
        A name :func:`geoattn.grids.order` knows, such as "hilbert", "morton" or "nested".

    Raises
    ------
    ValueError
        If a number is out of range, or the grid has no such curve.
    """
    require_grid(grid)
    for name, value in (("size", size), ("stride", stride)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be int, got {value!r}")
    if not 1 <= size <= grid.size:
        raise ValueError(f"size must lie in 1 … {grid.size}, the tokens of {grid!r}, got {size}")
    if not 1 <= stride <= size:
        raise ValueError(f"stride must lie in 1 … size = {size}, got {stride}")
    hood = CurveWindow(grid, grid, int(size), int(stride), curve)
    _ = hood.order  # an unknown curve is refused here, not on first use
    return hood
