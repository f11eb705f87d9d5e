"""Loops that find the keys of discs, compiled. Imported on use: numba is slow to load."""

from __future__ import annotations

from math import asin, floor, pi, sin, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

#: keys that are sorted by insertion
_FEW = 48

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@njit(cache=True, nogil=True)
def haversine(lat_a: float, lat_b: float, lon_difference: float) -> Any:
    """sin²(d/2) of the great-circle distance d; bit for bit the same from either side."""
    return sin((lat_a - lat_b) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * sin(lon_difference / 2) ** 2


@njit(cache=True, nogil=True)
def _reach(lat_a: float, lat_b: float, unit: float, rest: float, last: int, limit: float) -> int:
    """The largest m in 0 … last with a point (m + rest) units of longitude away in reach, or −1."""
    across = np.cos(lat_a) * np.cos(lat_b)
    share = limit - sin((lat_a - lat_b) / 2) ** 2
    m = last
    if share < across:
        m = min(last, max(0, floor(2 * asin(sqrt(max(share, 0.0) / across)) / unit - rest)))
    while m < last and haversine(lat_a, lat_b, abs(m + 1 + rest) * unit) <= limit:
        m += 1
    while m >= 0 and haversine(lat_a, lat_b, abs(m + rest) * unit) > limit:
        m -= 1
    return m


@njit(cache=True, nogil=True)
def longitude_reach(query_lat: Floats, key_lat: Floats, turn: int, rest: float, limit: float) -> Any:
    """How far each pair of rows reaches, in units of 1/turn of the globe.

    Query row r sees the key rows from ``first_row[r]``, one per entry ``indptr[r] … indptr[r + 1]``;
    of entry e it sees the points whose longitude difference is m + rest units with
    ``-west[e] <= m <= east[e]``. Where it sees nothing of a row in between, east is −1 and west 0.
    """
    unit = 2 * pi / turn
    n = len(query_lat)
    first_row = np.zeros(n, np.int64)
    indptr = np.zeros(n + 1, np.int64)
    for r in range(n):
        first, stop = 0, 0
        for s in range(len(key_lat)):
            if haversine(query_lat[r], key_lat[s], rest * unit) <= limit:
                first = s if stop == 0 else first
                stop = s + 1
        first_row[r] = first
        indptr[r + 1] = indptr[r] + stop - first
    east = np.empty(indptr[n], np.int64)
    west = np.empty(indptr[n], np.int64)
    last_east, last_west = floor(turn / 2 - rest), floor(turn / 2 + rest)
    for r in range(n):
        for e in range(indptr[r], indptr[r + 1]):
            lat = key_lat[first_row[r] + e - indptr[r]]
            east[e] = _reach(query_lat[r], lat, unit, rest, last_east, limit)
            west[e] = max(_reach(query_lat[r], lat, unit, -rest, last_west, limit), 0)
    return first_row, indptr, east, west


@njit(cache=True, nogil=True)
def _columns(
    column: int, n_key: int, query_stride: int, key_stride: int, turn: int, shift: int, east: int, west: int
) -> Any:
    """First key column in reach and their number, wrapping at ``n_key``."""
    if east + west + 1 >= turn:
        return 0, n_key
    # key column c lies c * key_stride + shift − column * query_stride units to the east
    origin = column * query_stride - shift
    low = -((west - origin) // key_stride)
    high = (origin + east) // key_stride
    return low % n_key, max(high - low + 1, 0)


@njit(cache=True, nogil=True)
def latlon_indptr(
    queries: Ints,
    n_query: int,
    n_key: int,
    query_stride: int,
    key_stride: int,
    turn: int,
    shift: int,
    first_row: Ints,
    row_indptr: Ints,
    east: Ints,
    west: Ints,
) -> Any:
    """Row starts of the given queries."""
    indptr = np.zeros(len(queries) + 1, np.int64)
    for i in range(len(queries)):
        r, column = queries[i] // n_query, queries[i] % n_query
        total = 0
        for e in range(row_indptr[r], row_indptr[r + 1]):
            _, count = _columns(column, n_key, query_stride, key_stride, turn, shift, east[e], west[e])
            total += count
        indptr[i + 1] = indptr[i] + total
    return indptr


@njit(cache=True, nogil=True)
def latlon_rows(
    queries: Ints,
    n_query: int,
    n_key: int,
    query_stride: int,
    key_stride: int,
    turn: int,
    shift: int,
    first_row: Ints,
    row_indptr: Ints,
    east: Ints,
    west: Ints,
) -> Any:
    """Rows of the given queries, each ascending."""
    indptr = latlon_indptr(
        queries, n_query, n_key, query_stride, key_stride, turn, shift, first_row, row_indptr, east, west
    )
    keys = np.empty(indptr[-1], np.int32)
    for i in range(len(queries)):
        r, column = queries[i] // n_query, queries[i] % n_query
        k = indptr[i]
        for e in range(row_indptr[r], row_indptr[r + 1]):
            low, count = _columns(column, n_key, query_stride, key_stride, turn, shift, east[e], west[e])
            start = np.int32((first_row[r] + e - row_indptr[r]) * n_key)
            past_end = max(low + count - n_key, 0)  # the part of the interval that wraps comes first
            for c in range(past_end):
                keys[k] = start + np.int32(c)
                k += 1
            for c in range(low, low + count - past_end):
                keys[k] = start + np.int32(c)
                k += 1
    return indptr, keys


@njit(cache=True, nogil=True)
def _sort(keys: Any, start: int, stop: int, scratch: Any, counts: Any, digits: int) -> Any:
    """Bring ``keys[start:stop]`` in ascending order, byte after byte of ``digits``; returns the scratch."""
    n = stop - start
    if n < _FEW:
        for i in range(start + 1, stop):
            key, place = keys[i], i
            while place > start and keys[place - 1] > key:
                keys[place] = keys[place - 1]
                place -= 1
            keys[place] = key
        return scratch
    if n > len(scratch):
        scratch = np.empty(2 * n, np.int32)
    for digit in range(digits):
        shift = np.int32(8 * digit)
        counts[:] = 0
        for i in range(start, stop):
            counts[(keys[i] >> shift & 255) + 1] += 1
        for value in range(256):
            counts[value + 1] += counts[value]
        for i in range(start, stop):
            value = keys[i] >> shift & 255
            scratch[counts[value]] = keys[i]
            counts[value] += 1
        keys[start:stop] = scratch[:n]
    return scratch


@njit(cache=True, nogil=True)
def within(
    queries: Floats,
    limits: Floats,
    skip: Ints,
    start: Ints,
    stop: Ints,
    low: Floats,
    high: Floats,
    points: Floats,
    order: NDArray[np.int32],
) -> Any:
    """Walk the tree of boxes for each query; see :class:`geoattn.neighborhoods.boxes.BoxTree`."""
    px, py, pz = points[0], points[1], points[2]
    indptr = np.zeros(len(queries) + 1, np.int64)
    keys = np.empty(64 * len(queries), np.int32)
    scratch, counts = np.empty(64, np.int32), np.zeros(257, np.int32)
    digits = 0  # of the numbers of keys, in bytes
    while len(order) - 1 >> 8 * digits > 0:
        digits += 1
    found = 0
    for i in range(len(queries)):
        x, y, z = queries[i, 0], queries[i, 1], queries[i, 2]
        limit = limits[i]
        outside, inside = limit * (1 + 1e-12), limit * (1 - 1e-12)
        node = 0
        while node < len(start):
            below_x, below_y, below_z = low[node, 0] - x, low[node, 1] - y, low[node, 2] - z
            above_x, above_y, above_z = x - high[node, 0], y - high[node, 1], z - high[node, 2]
            near_x, near_y, near_z = max(below_x, above_x), max(below_y, above_y), max(below_z, above_z)
            near = max(near_x, 0.0) ** 2 + max(near_y, 0.0) ** 2 + max(near_z, 0.0) ** 2
            if near > outside:
                node = skip[node]
                continue
            far = min(below_x, above_x) ** 2 + min(below_y, above_y) ** 2 + min(below_z, above_z) ** 2
            whole = far < inside
            if not whole and skip[node] != node + 1:
                node += 1
                continue
            first, last = start[node], stop[node]
            if found + last - first > len(keys):  # as the queries so far suggest; unused pages are free
                expected = (found + last - first) / (i + 1) * len(queries)
                grown = np.empty(found + last - first + int(1.5 * expected), np.int32)
                grown[:found] = keys[:found]
                keys = grown
            if whole:
                for p in range(last - first):
                    keys[found + p] = order[first + p]
                found += last - first
            else:
                for p in range(first, last):  # no branch: a point out of reach is overwritten
                    keys[found] = order[p]
                    found += (x - px[p]) ** 2 + (y - py[p]) ** 2 + (z - pz[p]) ** 2 <= limit
            node = skip[node]
        indptr[i + 1] = found
        scratch = _sort(keys, indptr[i], found, scratch, counts, digits)
    return indptr, keys[:found]
