"""What a thread works in: where in its memory all lies, worked out before kernels run.

The records hold distances from the beginning of a thread's memory, or, of a state, from its own beginning.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from geoattn.backends.cpu.emitted import LANES, TILE

#: groups of lanes that make up a tile
GROUPS = TILE // LANES
CACHE_LINE = 64


class Listed(NamedTuple):
    """The keys of a tile, and those that any lane of each group sees; int32 where not told."""

    #: the keys of the tile, and the entry of each, counted from the first that was read
    tokens: int
    entries: int
    #: ``[GROUPS, capacity]``: token, place in ``tokens``, visible lanes, bias in units of log 2 (an element).
    #: Each list is padded to a multiple of ``KEY_BLOCK`` with the first key of the tile, seen by no lane
    keys: int
    places: int
    masks: int
    biases: int
    #: int64 ``[GROUPS / 2]``: so many keys at the front of the lists of a pair of groups are the same in
    #: both, a multiple of ``KEY_BLOCK``
    both: int
    #: int64 ``[GROUPS]``: keys without the padding
    counts: int
    #: int64: what is counted on the way
    dealt: int


class State(NamedTuple):
    """What is held of the queries of a tile in one head, ``[TILE, channels]`` or by lanes."""

    #: by lanes ``[groups, channels, lanes]``, like ``gradients``
    queries: int
    #: of the forward pass: what is summed of v, of weights, and the largest scores
    sums: int
    totals: int
    maxima: int
    #: of the backward pass: rows of q and dout, by lanes too, dq, and log-sum-exps in units of log 2 and δ
    query_rows: int
    query_gradients: int
    gradient_rows: int
    gradients: int
    levels: int
    delta: int


class Room(NamedTuple):
    """What a thread holds besides."""

    #: one state after the other, of ``state_size`` bytes each
    states: int
    #: of two groups each, ``[2, capacity, LANES]``: scores or probabilities, and their gradients
    probabilities: int
    score_gradients: int
    #: rows of v or k in whole vectors, where they do not lie so already, and of gradients
    packed: int
    packed_gradients: int
    #: of each head, a row of gradients of biases for each entry of the plan, of ``pair_gradients_size`` bytes
    pair_gradients: int
    #: numbers: old maxima of a tile, a row of zeros, two constants, and what a row is multiplied by
    before: int
    zeros: int
    to_base_two: int
    one: int
    factor: int
    #: int32: where each query's own part of a relation's table begins, and that of its gradients
    offsets: int
    gradient_offsets: int
    #: int32: row of each key in the table of the run, −1 for keys that no other run touches
    slot_of_key: int
    #: int32: 0, 1, … of a tile
    lanes_of_tile: int
    #: bytes: classes of tiles whose entries have gradients in ``pair_gradients``
    touched: int


class Layout(NamedTuple):
    """The memory of a thread."""

    listed: Listed
    state: State
    room: Room
    #: bytes of a state, of gradients of biases in one head, and of all
    state_size: int
    pair_gradients_size: int
    size: int


class _Places:
    """Places one behind the other, each on a cache line of its own."""

    def __init__(self) -> None:
        self.end = 0

    def take(self, size: int) -> int:
        start = self.end
        self.end += -(-size // CACHE_LINE) * CACHE_LINE
        return start


@functools.lru_cache(maxsize=256)
def forward_layout(
    element: int, depth: int, value_width: int, heads: int, capacity: int, packed: int
) -> Layout:
    """Of the forward pass: for elements of so many bytes, heads of an item, keys, and ``packed`` numbers."""
    own, places, tile = _Places(), _Places(), TILE * element
    queries, sums, totals, maxima = (own.take(tile * n) for n in (depth, value_width, 1, 1))
    state = State(queries, sums, totals, maxima, 0, 0, 0, 0, 0, 0)
    listed = _listed(places, element, capacity)
    room = Room(
        states=places.take(heads * own.end),
        probabilities=places.take(2 * capacity * LANES * element),
        score_gradients=0,
        packed=places.take(packed * element),
        packed_gradients=0,
        pair_gradients=0,
        before=places.take(tile),
        zeros=places.take(depth * element),
        to_base_two=0,
        one=0,
        factor=places.take(element),
        offsets=places.take(4 * TILE),
        gradient_offsets=0,
        slot_of_key=0,
        lanes_of_tile=0,
        touched=0,
    )
    return Layout(listed, state, room, own.end, 0, places.end)


@functools.lru_cache(maxsize=256)
def backward_layout(
    element: int,
    depth: int,
    value_depth: int,
    key_width: int,
    value_width: int,
    heads: int,
    capacity: int,
    packed: int,
    packed_gradients: int,
    n_keys: int,
    classes: int,
    pair_entries: int,
) -> Layout:
    """Of the backward pass; so many entries of the plan have gradients of biases in rows."""
    own, places, tile = _Places(), _Places(), TILE * element
    per_query = (key_width, key_width, value_width, depth, value_depth, 1, 1)
    query_rows, query_gradients, gradient_rows, queries, gradients, levels, delta = (
        own.take(tile * n) for n in per_query
    )
    state = State(queries, 0, 0, 0, query_rows, query_gradients, gradient_rows, gradients, levels, delta)
    listed = _listed(places, element, capacity)
    room = Room(
        states=places.take(heads * own.end),
        probabilities=places.take(2 * capacity * LANES * element),
        score_gradients=places.take(2 * capacity * LANES * element),
        packed=places.take(packed * element),
        packed_gradients=places.take(packed_gradients * element),
        pair_gradients=places.take(heads * pair_entries * tile),
        before=0,
        zeros=0,
        to_base_two=places.take(element),
        one=places.take(element),
        factor=places.take(element),
        offsets=places.take(4 * TILE),
        gradient_offsets=places.take(4 * TILE),
        slot_of_key=places.take(4 * n_keys),
        lanes_of_tile=places.take(4 * TILE),
        touched=places.take(classes),
    )
    return Layout(listed, state, room, own.end, pair_entries * tile, places.end)


def _listed(places: _Places, element: int, capacity: int) -> Listed:
    return Listed(
        tokens=places.take(4 * capacity),
        entries=places.take(4 * capacity),
        keys=places.take(4 * GROUPS * capacity),
        places=places.take(4 * GROUPS * capacity),
        masks=places.take(4 * GROUPS * capacity),
        biases=places.take(element * GROUPS * capacity),
        both=places.take(8 * (GROUPS // 2)),
        counts=places.take(8 * GROUPS),
        dealt=places.take(8 * (GROUPS // 2 + GROUPS + 1)),
    )
