"""Loops over compressed rows, compiled. Imported on use: numba is slow to load."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def progressions(first: Ints, count: Ints, step: int, length: int) -> Any:
    """Rows of the keys ``(first + t * step) % length`` for ``0 <= t < count``, each ascending."""
    indptr = np.zeros(len(first) + 1, np.int64)
    indptr[1:] = np.cumsum(count)
    keys = np.empty(indptr[-1], np.int32)
    for i in range(len(first)):
        wrapped = False
        key = first[i]
        for e in range(indptr[i], indptr[i + 1]):
            keys[e] = key
            key += step
            if key >= length:
                key %= length
                wrapped = True
        if wrapped:
            keys[indptr[i] : indptr[i + 1]].sort()
    return indptr, keys


@njit(cache=True, nogil=True)
def outer(
    slow_indptr: Ints, slow: NDArray[np.int32], fast_indptr: Ints, fast: NDArray[np.int32], size: int
) -> Any:
    """Row by row, all pairs of a slow and a fast key as the flat number ``slow * size + fast``."""
    n = len(slow_indptr) - 1
    indptr = np.zeros(n + 1, np.int64)
    for i in range(n):
        pairs = (slow_indptr[i + 1] - slow_indptr[i]) * (fast_indptr[i + 1] - fast_indptr[i])
        indptr[i + 1] = indptr[i] + pairs
    keys = np.empty(indptr[n], np.int32)
    for i in range(n):
        e = indptr[i]
        for a in range(slow_indptr[i], slow_indptr[i + 1]):
            start = np.int32(slow[a] * size)
            for b in range(fast_indptr[i], fast_indptr[i + 1]):
                keys[e] = start + fast[b]
                e += 1
    return indptr, keys


@njit(cache=True, nogil=True)
def merge(
    first_indptr: Ints, first: NDArray[np.int32], second_indptr: Ints, second: NDArray[np.int32]
) -> Any:
    """Row by row, the keys of either, ascending as both are, each once."""
    n = len(first_indptr) - 1
    indptr = np.zeros(n + 1, np.int64)
    keys = np.empty(len(first) + len(second), np.int32)
    e = 0
    for i in range(n):
        a, b = first_indptr[i], second_indptr[i]
        while a < first_indptr[i + 1] or b < second_indptr[i + 1]:
            left = b == second_indptr[i + 1] or (a < first_indptr[i + 1] and first[a] <= second[b])
            key = first[a] if left else second[b]
            if a < first_indptr[i + 1] and first[a] == key:
                a += 1
            if b < second_indptr[i + 1] and second[b] == key:
                b += 1
            keys[e] = key
            e += 1
        indptr[i + 1] = e
    return indptr, keys[:e].copy()


@njit(cache=True, nogil=True)
def transpose(indptr: Ints, indices: NDArray[np.int32], n_keys: int) -> Any:
    """The rows of the reversed edges, each ascending."""
    starts = np.zeros(n_keys + 1, np.int64)
    for key in indices:
        starts[key + 1] += 1
    starts = np.cumsum(starts)
    place = starts[:-1].copy()
    queries = np.empty(len(indices), np.int32)
    for i in range(len(indptr) - 1):
        for e in range(indptr[i], indptr[i + 1]):
            key = indices[e]
            queries[place[key]] = i
            place[key] += 1
    return starts, queries


@njit(cache=True, nogil=True)
def relabel(indptr: Ints, indices: NDArray[np.int32], labels: NDArray[np.int32]) -> Any:
    """The rows with key j named ``labels[j]``, each ascending."""
    keys = labels[indices]
    for i in range(len(indptr) - 1):
        keys[indptr[i] : indptr[i + 1]].sort()
    return keys


@njit(cache=True, nogil=True)
def keep_nearest(
    indptr: Ints,
    indices: NDArray[np.int32],
    queries: NDArray[np.float64],
    keys: NDArray[np.float64],
    closer: NDArray[np.float64],
    k: int,
) -> Any:
    """k keys of each row: those at a squared distance below ``closer[i]``, then the lowest-numbered."""
    kept = np.empty(k * len(queries), np.int32)
    for i in range(len(queries)):
        row = indices[indptr[i] : indptr[i + 1]]
        near = np.empty(len(row), np.bool_)
        for e in range(len(row)):
            near[e] = ((queries[i] - keys[row[e]]) ** 2).sum() < closer[i]
        ties = k - near.sum()
        found = i * k
        for e in range(len(row)):
            if found < (i + 1) * k and (near[e] or ties > 0):
                kept[found] = row[e]
                found += 1
                ties -= not near[e]
    return np.arange(len(queries) + 1) * k, kept
