"""A window along one axis: which positions each position sees."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from math import gcd

import numpy as np

from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Arithmetic progressions: query i sees the keys ``(first[i] + t * step) % length``, 0 ≤ t < count[i].

    On an open axis no progression passes the end. The queries that see a key are a progression too, so
    that this form is closed under transposition. Axes are equal that have the same pairs.
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
    #: int64 [queries], how far before or behind the query its first key lies, as if the axis did not wrap
    start: Index
    #: how far apart two keys lie, and two queries, in positions: the unit of distances
    pitch: tuple[int, int]

    @property
    def stretch(self) -> int:
        """How far one key of a query lies from its next, in positions."""
        return self.step * self.pitch[0]

    @cached_property
    def _chains(self) -> int:
        """Progressions around a ring come back to every so many keys."""
        return gcd(self.length, self.step)

    @cached_property
    def _begin(self) -> Index:
        """The first keys, where a full turn around a ring has one canonical start."""
        full = self.count == self.length // self._chains
        return np.where(full, self.first % self._chains, self.first) if self.periodic else self.first

    def rows(self, positions: Index) -> Rows:
        """Positions seen by the given positions, each row ascending."""
        from geoattn.neighborhoods._kernels import progressions

        return Rows(*progressions(self._begin[positions], self.count[positions], self.step, self.length))

    def displacements(self, queries: Index, keys: Index) -> Index:
        """How far keys lie ahead of queries that see them, in positions, as if the axis did not wrap."""
        steps = keys - self.first[queries]
        if self.periodic:
            turn = self.length // self._chains
            steps = steps // self._chains * pow(self.step // self._chains, -1, turn) % turn
        else:
            steps //= self.step
        return self.start[queries] + steps * self.stretch

    def transpose(self) -> Axis:
        """The same pairs seen from the other side."""
        first, count = self._ring_columns() if self.periodic else self._line_columns()
        start = np.where(count > 0, -self.displacements(first, np.arange(self.length)), 0)
        n, (key, query) = len(self.first), self.pitch
        return Axis(n, self.back, self.step, self.periodic, first, count, start, (query, key))

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
        """The same on a ring, where the first query is the one that sees the key the furthest ahead."""
        n = len(self.first)
        indptr, keys = self.rows(np.arange(n))
        queries = np.repeat(np.arange(n), np.diff(indptr))
        order = np.lexsort((-self.displacements(queries, keys.astype(np.int64)), keys))
        count = np.bincount(keys, minlength=self.length)
        seen = np.flatnonzero(count)
        first = np.zeros(self.length, np.int64)
        first[seen] = queries[order][(np.cumsum(count) - count)[seen]]
        return first, count

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        same = (self.length, self.step, self.periodic) == (other.length, other.step, other.periodic)
        return same and np.array_equal(self._begin, other._begin) and np.array_equal(self.count, other.count)


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
    else:
        low, high = np.maximum(low, start), np.minimum(high, stop - 1)
        count = np.maximum(high - low + 1, 0)
        first = np.where(count > 0, origin + chain + low * dilation, 0)
    start = np.where(count > 0, (low - place) * dilation, 0)
    back = dilation // gcd(pitch, dilation)
    return Axis(keys, dilation, back, periodic, first, count, start, (1, pitch))
