"""Loops over edges, compiled with numba."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def majority(indptr, owners, n, found):  # type: ignore[no-untyped-def]
    """For each row the number that occurs most often in it, the lowest of several; −1 for an empty one."""
    counts = np.zeros(n, np.int64)
    for row in range(len(indptr) - 1):
        best = -1
        for e in range(indptr[row], indptr[row + 1]):
            owner = owners[e]
            counts[owner] += 1
            if best < 0 or counts[owner] > counts[best] or (counts[owner] == counts[best] and owner < best):
                best = owner
        found[row] = best
        for e in range(indptr[row], indptr[row + 1]):
            counts[owners[e]] = 0


@njit(cache=True, nogil=True)
def mark(indptr, keys, home, border, seen):  # type: ignore[no-untyped-def]
    """Mark the rows with a key that is not at home, and all keys of these rows."""
    for row in range(len(indptr) - 1):
        for e in range(indptr[row], indptr[row + 1]):
            if not home[keys[e]]:
                border[row] = True
                break
        if border[row]:
            for e in range(indptr[row], indptr[row + 1]):
                seen[keys[e]] = True
