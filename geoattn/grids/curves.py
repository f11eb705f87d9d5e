"""Space-filling curves on integer lattices, vectorised over the points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.sphere import Ints

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
