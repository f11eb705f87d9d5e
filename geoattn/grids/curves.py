"""Space-filling curves on integer lattices, and bisection of point sets, vectorised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Floats, Ints

Keys = NDArray[np.uint64]


def morton(places: Ints, bits: int) -> Keys:
    """Position along the Z-order curve of ``places [n, dimensions]``, each below ``2**bits``.

    The bits of the coordinates are interleaved, the first coordinate the most significant.
    """
    columns = places.T.astype(np.uint64)
    keys = np.zeros(len(places), np.uint64)
    one = np.uint64(1)
    for bit in range(bits - 1, -1, -1):
        for column in columns:
            keys = (keys << one) | ((column >> np.uint64(bit)) & one)
    return keys


def hilbert(places: Ints, bits: int) -> Keys:
    """Position along the Hilbert curve of ``places [n, dimensions]``, each below ``2**bits``.

    Consecutive positions are neighbors of the lattice, in any number of dimensions. Algorithm:
    Skilling 2004, "Programming the Hilbert curve", doi:10.1063/1.1751381, here with the branches
    of each bit as masks over all points at once.
    """
    x = list(places.T.astype(np.uint64).copy())
    one = np.uint64(1)
    for bit in range(bits - 1, 0, -1):
        low = np.uint64((1 << bit) - 1)
        for column in x:
            # a set bit turns the lower bits of the first axis over, a clear one swaps them in
            is_set = np.uint64(0) - ((column >> np.uint64(bit)) & one)
            swap = (x[0] ^ column) & low & ~is_set
            x[0] ^= swap | (low & is_set)
            if column is not x[0]:
                column ^= swap
    for axis in range(1, len(x)):  # Gray code
        x[axis] ^= x[axis - 1]
    parity = np.zeros_like(x[0])
    for bit in range(bits - 1, 0, -1):
        parity ^= np.uint64((1 << bit) - 1) & (np.uint64(0) - ((x[-1] >> np.uint64(bit)) & one))
    return morton(np.stack([column ^ parity for column in x], axis=-1).astype(np.int64), bits)


def bisection(points: Floats, leaf: int) -> NDArray[np.int32]:
    """Order of ``points [n, dimensions]`` by balanced recursive bisection: position → point, int32 ``[n]``.

    Each part is halved across its widest axis until it has at most ``leaf`` points. The first half
    is a multiple of ``leaf``, so that all leaves but the last are full and leaf i is the tile
    ``order[i * leaf : (i + 1) * leaf]``.
    """
    if leaf < 1:
        raise ValueError(f"leaf must be at least 1, got {leaf}")
    order = np.arange(len(points), dtype=np.int32)
    parts = [(0, len(points))]
    while parts:
        start, stop = parts.pop()
        count = stop - start
        if count <= leaf:
            continue
        part = order[start:stop]
        inside = points[part]
        widest = np.argmax(inside.max(axis=0) - inside.min(axis=0))
        half = -(-count // leaf) // 2 * leaf
        order[start:stop] = part[np.argpartition(inside[:, widest], half)]
        parts += [(start, start + half), (start + half, stop)]
    return order
