"""Windows along a space-filling curve: neighbors in rank are near in space."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, require_grid
from geoattn.neighborhoods.axis import Axis, window_axis
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CurveWindow(Neighborhood, kind="curve_window"):
    """A window over ranks along a curve; made by :func:`curve_window`."""

    window_size: int
    stride: int
    curve: str
    offset: int = 0
    boundary: str = "shift"
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
        n, size, stride = self.query_grid.size, self.window_size, self.stride
        axis = window_axis(n, n, 1, 0, size, stride, 1, False, self.offset, self.boundary, False)
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
        offset = f", offset {self.offset}" if self.offset else ""
        boundary = f", boundary {self.boundary!r}" if self.boundary != "shift" else ""
        along = f"along the {self.curve} curve{stride}{offset}{boundary}"
        return f"{name} of {self.window_size} {along} on {self.query_grid!r}"


def curve_window(
    grid: Grid,
    size: int,
    stride: int = 1,
    curve: str = "hilbert",
    offset: int = 0,
    boundary: Literal["shift", "clip"] = "shift",
) -> CurveWindow:
    """A 1-D window on the rank of the tokens along a curve through the grid.

    Sort the tokens along the curve; then query and key numbers are ranks and the pattern is
    :func:`geoattn.window` on one axis: ``size`` keys around each query, or, with ``stride == size``, blocks
    of the curve. After Hilbert-guided local attention (2511.05832). On nested HEALPix, ``size = 4**m`` with
    ``stride=size`` and ``curve="nested"`` are the windows of HEAL-SWIN (2307.07313), and with
    ``offset=size // 2`` and ``boundary="clip"`` those shifted along nested order, where the pixels that its
    roll brings together from both ends do not see each other.

    Parameters
    ----------
    grid
        Any grid that has the curve.
    size
        Keys per query, from 1; up to ``grid.size`` with boundary "shift".
    stride
        Queries that share a window, 1 to ``size``.
    curve
        A name :func:`geoattn.grids.order` knows, such as "hilbert", "morton" or "nested".
    offset
        The rank at which a group of ``stride`` queries begins, modulo ``stride``.
    boundary
        "shift" moves a window inward at the ends of the curve so that it keeps all its keys; "clip" drops
        the keys outside.

    Raises
    ------
    TypeError
        If a number is no whole one.
    ValueError
        If a number is out of range, or the grid has no such curve.

    Examples
    --------
    >>> ga.curve_window(ga.grids.healpix(4), 32)
    window of 32 along the hilbert curve on HEALPix grid nside 4, 192 pixels in nested order
    """
    require_grid("grid", grid)
    for name, value in (("size", size), ("stride", stride), ("offset", offset)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be int, got {value!r}")
    if boundary not in ("shift", "clip"):
        raise ValueError(f'boundary must be "shift" or "clip", got {boundary!r}')
    if size < 1 or (boundary == "shift" and size > grid.size):
        raise ValueError(f"size must lie in 1 … {grid.size}, the tokens of {grid!r}, got {size}")
    if not 1 <= stride <= size:
        raise ValueError(f"stride must lie in 1 … size = {size}, got {stride}")
    hood = CurveWindow(grid, grid, int(size), int(stride), curve, int(offset % stride), boundary)
    _ = hood.order  # an unknown curve is refused here, not on first use
    return hood
