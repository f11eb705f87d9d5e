"""Balanced recursive bisection of point sets, compiled with numba."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats

#: points in the smallest parts
RUN = 8


def bisection(points: Floats, leaf: int) -> NDArray[np.int32]:
    """Order of ``points [n, dimensions]`` by balanced recursive bisection: position → point, int32 ``[n]``.

    Each part is halved across its widest axis until it has at most ``leaf`` points. The first half
    is a multiple of ``leaf``, so that all leaves but the last are full and leaf i is the tile
    ``order[i * leaf : (i + 1) * leaf]``. Leaves are halved on, down to runs of eight points, so that
    parts of a tile are compact too. Points with equal coordinates are parted by their index and runs
    are ascending, so that the order depends on nothing but the points.
    """
    if leaf < 1:
        raise ValueError(f"leaf must be at least 1, got {leaf}")
    order = np.arange(len(points), dtype=np.int32)
    _bisect(np.ascontiguousarray(points, dtype=np.float64), order, leaf, min(leaf, RUN))
    return order


@njit(cache=True, nogil=True)
def _bisect(points, order, leaf, run):  # type: ignore[no-untyped-def]
    along = np.empty(len(order))
    parts = np.empty((64, 2), np.int64)  # a stack of parts to halve, one per level at the most
    parts[0, 0], parts[0, 1] = 0, len(order)
    waiting = 1
    while waiting > 0:
        waiting -= 1
        start, stop = parts[waiting, 0], parts[waiting, 1]
        count = stop - start
        if count <= run:
            order[start:stop].sort()
            continue
        widest, width = 0, -1.0
        for axis in range(points.shape[1]):
            low = high = points[order[start], axis]
            for i in range(start, stop):
                value = points[order[i], axis]
                low, high = min(low, value), max(high, value)
            if high - low > width:
                widest, width = axis, high - low
        for i in range(start, stop):
            along[i] = points[order[i], widest]
        unit = leaf if count > leaf else run
        middle = start + (count + unit - 1) // unit // 2 * unit
        _select(along, order, start, stop - 1, middle)
        parts[waiting, 0], parts[waiting, 1] = start, middle
        parts[waiting + 1, 0], parts[waiting + 1, 1] = middle, stop
        waiting += 2


@njit(cache=True, nogil=True)
def _select(values, order, low, high, middle):  # type: ignore[no-untyped-def]
    """Move what sorts before place ``middle`` before it, by (value, index), within low … high."""
    while low < high:
        centre = (low + high) // 2
        pivot, pivot_index = values[centre], order[centre]
        i, j = low, high
        while i <= j:
            while values[i] < pivot or (values[i] == pivot and order[i] < pivot_index):
                i += 1
            while values[j] > pivot or (values[j] == pivot and order[j] > pivot_index):
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            break
