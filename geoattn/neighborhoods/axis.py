"""A window along one axis: which positions each position sees."""

from __future__ import annotations

import dataclasses
from math import gcd

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.rows import Index, Rows


@dataclasses.dataclass(frozen=True)
class Axis:
    """Arithmetic progressions: position i sees ``(first[i] + t * step) % length``, 0 ≤ t < count[i].

    On an open axis no progression passes the end. This form is closed under transposition.
    """

    length: int
    step: int
    periodic: bool
    #: int64 [length]
    first: Index
    #: int64 [length], at most the length of a chain
    count: Index

    def rows(self, positions: Index) -> Rows:
        """Positions seen by the given positions, each row ascending."""
        from geoattn.neighborhoods._kernels import progressions

        return Rows(*progressions(self.first[positions], self.count[positions], self.step, self.length))

    def transpose(self) -> Axis:
        """The same pairs seen from the other side."""
        chain, place, size = _chains(self.length, self.step, self.periodic)
        low = _places(self, chain, place, size)
        new_low, new_count = np.empty_like(low), np.empty_like(low)
        for members in _members(chain, place):
            lo, n = low[members], len(members)
            hi = lo + self.count[members] - 1
            at = np.arange(n)
            if self.periodic:  # unrolled: one turn before, one after, as windows reach at most a turn away
                lo, hi, at = (np.concatenate((x - n, x, x + n)) for x in (lo, hi, at))
            # windows never move backwards along a chain, so the windows over a place are consecutive
            t = np.arange(n)
            start = np.searchsorted(hi, t, "left")
            stop = np.searchsorted(lo, t, "right")
            new_low[members] = at[start]
            new_count[members] = stop - start
        return _axis(self.length, self.step, self.periodic, new_low, new_count)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Axis):
            return NotImplemented
        same = (self.length, self.step, self.periodic) == (other.length, other.step, other.periodic)
        return same and bool((self.first == other.first).all() and (self.count == other.count).all())


def window_axis(
    length: int,
    size: int,
    stride: int,
    dilation: int,
    causal: bool,
    offset: int,
    boundary: str,
    periodic: bool,
) -> Axis:
    """The window of :func:`geoattn.window` along one axis; the formulas are stated there."""
    _, place, n = _chains(length, dilation, periodic)
    leader_group = (place - offset) // stride * stride + offset
    shift = boundary == "shift" and not periodic
    if causal:
        leader = leader_group + stride - 1
        low = (np.minimum(leader, n - 1) if shift else leader) - size + 1
        high = place
    else:
        leader = leader_group + stride // 2
        low = (np.minimum(leader, n - 1) if shift else leader) - size // 2
        if shift:
            low = np.minimum(np.maximum(low, 0), n - size)
        high = low + size - 1
    if periodic:
        low = np.maximum(low, high - n + 1)
    else:
        low, high = np.maximum(low, 0), np.minimum(high, n - 1)
    return _axis(length, dilation, periodic, low, high - low + 1)


def _axis(length: int, step: int, periodic: bool, low: Index, count: Index) -> Axis:
    """An axis from the first place of each window in its chain, and the number of places."""
    chain, _, size = _chains(length, step, periodic)
    if periodic:
        low = np.where(count == size, 0, low % size)  # a full turn has one canonical start
    return Axis(length, step, periodic, (chain + low * step) % length, count)


def _chains(length: int, step: int, periodic: bool) -> tuple[Index, Index, Index]:
    """Chain, place in it, and size of it, for each position.

    A chain is what steps of ``step`` connect. On an open axis these are the residues: chain
    ``i % step``, place ``i // step``. On a periodic axis they are the orbits of the step around the
    ring, the same thing where ``step`` divides ``length``.
    """
    i = np.arange(length)
    if not periodic:
        chain = i % step
        return chain, i // step, (length - chain + step - 1) // step
    chains = gcd(length, step)
    size = length // chains
    chain = i % chains
    place = (i - chain) // chains * pow(step // chains, -1, size) % size
    return chain, place, np.full(length, size)


def _places(axis: Axis, chain: Index, place: Index, size: Index) -> Index:
    """Place of each window's first key, at most a turn before the window's own position."""
    low = place[axis.first]
    if axis.periodic:
        reach = np.where(low > place, low - size, low)
        low = np.where(axis.count == size, place - size + 1, reach)
    return low


def _members(chain: Index, place: Index) -> list[NDArray[np.int64]]:
    """Positions of each chain in the order of their places."""
    order = np.lexsort((place, chain))
    return np.split(order, np.flatnonzero(np.diff(chain[order])) + 1)
