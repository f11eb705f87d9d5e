"""A window along one axis: which positions each position sees."""

from __future__ import annotations

import dataclasses
from math import gcd

import numpy as np

from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Arithmetic progressions: query i sees the keys ``(first[i] + t * step) % length``, 0 ≤ t < count[i].

    On an open axis no progression passes the end. The queries that see a key are a progression too, so
    that this form is closed under transposition.
    """

    #: number of keys
    length: int
    #: from one key of a query to its next
    step: int
    #: from one query of a key to its next
    back: int
    periodic: bool
    #: int64 [queries]
    first: Index
    #: int64 [queries], at most the length of a chain
    count: Index

    def rows(self, positions: Index) -> Rows:
        """Positions seen by the given positions, each row ascending."""
        from geoattn.neighborhoods._kernels import progressions

        return Rows(*progressions(self.first[positions], self.count[positions], self.step, self.length))

    def transpose(self) -> Axis:
        """The same pairs seen from the other side."""
        first, count = self._ring_columns() if self.periodic else self._line_columns()
        return Axis(len(self.first), self.back, self.step, self.periodic, first, count)

    def _line_columns(self) -> tuple[Index, Index]:
        """First query and number of queries of each key, on an open axis."""
        first, count = np.zeros(self.length, np.int64), np.zeros(self.length, np.int64)
        seeing = np.flatnonzero(self.count)
        for chain in range(self.step):
            rows = seeing[self.first[seeing] % self.step == chain]
            if not len(rows):
                continue
            # windows never move backwards along a chain, so that those over a place are consecutive
            low = self.first[rows] // self.step
            places = np.arange(len(range(chain, self.length, self.step)))
            begin = np.searchsorted(low + self.count[rows] - 1, places, "left")
            end = np.searchsorted(low, places, "right")
            count[chain :: self.step] = n = np.maximum(end - begin, 0)
            first[chain :: self.step] = np.where(n > 0, rows[np.minimum(begin, len(rows) - 1)], 0)
        return first, count

    def _ring_columns(self) -> tuple[Index, Index]:
        """The same on a ring."""
        n = len(self.first)
        indptr, keys = self.rows(np.arange(n))
        queries = np.repeat(np.arange(n), np.diff(indptr))
        count = np.bincount(keys, minlength=self.length).astype(np.int64)
        first = np.where(count > 0, n, 0)
        np.minimum.at(first, keys, queries)  # a full turn has one canonical start, the smallest
        pairs = keys.astype(np.int64) * n
        begins = ~np.isin(pairs + (queries - self.back) % n, pairs + queries)  # an arc's is its own
        first[keys[begins]] = queries[begins]
        return first, count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        same = (self.length, self.step, self.periodic) == (other.length, other.step, other.periodic)
        return same and np.array_equal(self.first, other.first) and np.array_equal(self.count, other.count)


def window_axis(
    queries: int,
    keys: int,
    pitch: int,
    origin: int,
    size: int,
    stride: int,
    dilation: int,
    causal: bool,
    offset: int,
    boundary: str,
    periodic: bool,
) -> Axis:
    """The window of :func:`geoattn.window` along one axis; the formulas are stated there.

    Query i lies at key position ``origin + i * pitch``. Chains and places are counted from the origin:
    key position ``origin + chain + place * dilation``, with places from ``start`` to ``stop - 1``.
    """
    at = np.arange(queries) * pitch
    if periodic:
        chains = gcd(keys, dilation)
        turn = keys // chains  # places of an orbit of the dilation around the ring
        chain = at % chains
        place = (at % keys - chain) // chains * pow(dilation // chains, -1, turn) % turn
        start, stop = np.zeros_like(at), np.full_like(at, turn)
    else:
        chain, place = at % dilation, at // dilation
        start = -((origin + chain) // dilation)
        stop = (keys - 1 - origin - chain) // dilation + 1
    group = (place - offset) // stride * stride + offset
    shift = boundary == "shift" and not periodic
    if causal:
        leader = group + stride - 1
        low = (np.minimum(leader, stop - 1) if shift else leader) - size + 1
        high = place
    else:
        leader = group + stride // 2
        low = (np.minimum(leader, stop - 1) if shift else leader) - size // 2
        if shift:
            low = np.minimum(np.maximum(low, start), stop - size)
        high = low + size - 1
    if periodic:
        low = np.maximum(low, high - stop + 1)
        count = high - low + 1
        first = (chain + origin + low * dilation) % keys
        first = np.where(count == stop, (chain + origin) % gcd(keys, dilation), first)  # one canonical start
    else:
        low, high = np.maximum(low, start), np.minimum(high, stop - 1)
        count = np.maximum(high - low + 1, 0)
        first = np.where(count > 0, origin + chain + low * dilation, 0)
    return Axis(keys, dilation, dilation // gcd(pitch, dilation), periodic, first, count)
