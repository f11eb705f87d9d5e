"""Orders of a grid's tokens in which near points come near each other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geoattn.grids import curves
from geoattn.grids.base import Grid
from geoattn.grids.healpix import HEALPix

Order = NDArray[np.int32]


def order(grid: Grid, curve: str = "hilbert", *, leaf: int = 64) -> Order:
    """A permutation of the grid's tokens: position → token, int32 ``[size]``.

    Parameters
    ----------
    grid
        Any grid.
    curve
        ``"hilbert"`` or ``"morton"``: the curve on the indices of tensor grids, on each face of
        HEALPix and cubed-sphere grids, and on the faces of the cube around other spherical grids.
        ``"nested"``: HEALPix's own hierarchy. ``"bisection"``: balanced halving of the points in
        space, in leaves of ``leaf`` tokens. ``"row_major"``: the tokens as they are numbered.
    leaf
        Tokens per leaf of ``"bisection"``.

    Raises
    ------
    ValueError
        If the curve is unknown, or is ``"nested"`` on a grid without that hierarchy.

    Examples
    --------
    >>> ga.grids.order(ga.grids.cartesian((2, 2))).tolist()
    [0, 1, 3, 2]
    """
    if curve not in _ORDERS:
        raise ValueError(f"curve {curve!r} is unknown; the curves are {sorted(_ORDERS)}")
    return _ORDERS[curve](grid, leaf)


def _along(keys: Callable[[NDArray[np.int64], int], NDArray[np.uint64]]) -> Callable[[Grid, int], Order]:
    def along(grid: Grid, leaf: int) -> Order:
        lattice = grid.lattice()
        patches, places = lattice[:, 0], lattice[:, 1:]
        bits = max(int(places.max()).bit_length(), 1)
        # a key has 64 bits, some of them for the patch: places that differ beyond stay in their order
        spare = max(0, bits - 58 // places.shape[1])
        places, bits = places >> spare, bits - spare
        key = keys(places, bits) | (patches.astype(np.uint64) << np.uint64(bits * places.shape[1]))
        return np.argsort(key, kind="stable").astype(np.int32)

    return along


def _nested(grid: Grid, leaf: int) -> Order:
    if not isinstance(grid, HEALPix) or grid.nside & (grid.nside - 1):
        raise ValueError(f"curve 'nested' needs a HEALPix grid whose nside is a power of two, not {grid!r}")
    return _along(curves.morton)(grid, leaf)


def _bisection(grid: Grid, leaf: int) -> Order:
    from geoattn.grids.bisection import bisection  # imports numba

    points = grid.positions
    return bisection(points.reshape(grid.size, points.shape[-1]), leaf)


def _row_major(grid: Grid, leaf: int) -> Order:
    return np.arange(grid.size, dtype=np.int32)


_ORDERS: dict[str, Callable[[Grid, int], Order]] = {
    "hilbert": _along(curves.hilbert),
    "morton": _along(curves.morton),
    "nested": _nested,
    "bisection": _bisection,
    "row_major": _row_major,
}
