"""Queries with few keys: each meets the keys that it sees alone, with channels as vector lanes.

A tile lists its keys once, query by query, for all heads. See :mod:`geoattn.backends.cpu.micro_rows`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from geoattn.backends.cpu import micro, micro_rows
from geoattn.backends.cpu.compiled import entry_point, kernel
from geoattn.backends.cpu.forward import weigh
from geoattn.backends.cpu.lists import LOG2_E, LOWEST, TILE, aligned, lane_offsets

VECTOR_BYTES = micro.MACHINE.vector_bytes


class Seen(NamedTuple):
    """The keys that each query of a tile sees, ``[TILE, most]``, and what is computed of them in one head."""

    keys: NDArray[np.int32]
    #: places among the keys of the tile
    places: NDArray[np.int32]
    #: in units of log 2; −∞ beyond the keys
    biases: NDArray[Any]
    counts: NDArray[np.int64]
    #: ``[most]``, of one query
    scores: NDArray[Any]
    products: NDArray[Any]
    zeros: NDArray[Any]


@kernel
def seen_keys(like, most):  # type: ignore[no-untyped-def]
    """Room for up to ``most`` keys of each query, a number of whole vectors."""
    zeros = np.empty(most, type(like))
    for at in range(most):
        zeros[at] = 0
    return Seen(
        np.empty((TILE, most), np.int32),
        np.empty((TILE, most), np.int32),
        np.empty((TILE, most), type(like)),
        np.empty(TILE, np.int64),
        np.empty(most, type(like)),
        np.empty(most, type(like)),
        zeros,
    )


@kernel
def list_seen(like, plan, tile, bias, tokens, entries, seen):  # type: ignore[no-untyped-def]
    """List the keys of a tile, and those that each of its queries sees; returns how many the tile has.

    Keys whose bias is −∞ are left out. ``tokens`` and ``entries`` get each key of the tile and its entry,
    counted from the first of the tile's; ``bias`` is the address of the additive vector, 0 for none.
    """
    number = plan.tile_class[tile]
    first, last, shift = plan.indptr[number], plan.indptr[number + 1], plan.tile_shift[tile]
    most = type(like)(-LOWEST[micro.size_of(like) // 8])
    for lane in range(TILE):
        seen.counts[lane] = 0
    n_keys = 0
    for entry in range(first, last):
        position = plan.key_tiles[entry]
        begun = position // plan.ring * plan.ring
        token = plan.key_order[begun + (position - begun + shift) % plan.ring]
        offset = like * 0
        if bias != 0:
            given = micro.load(like, bias, token)
            if given == -np.inf:
                continue
            offset = given * type(like)(LOG2_E)
            # a finite bias stays finite, however large
            offset = min(max(offset, -most), most) if abs(given) <= most else offset
        tokens[n_keys], entries[n_keys] = token, entry - first
        lanes = np.int64(plan.lanes[entry])
        while lanes != 0:
            lane = micro.lowest_bit(lanes)
            lanes &= lanes - 1
            at = seen.counts[lane]
            seen.keys[lane, at], seen.places[lane, at], seen.biases[lane, at] = token, n_keys, offset
            seen.counts[lane] = at + 1
        n_keys += 1
    for lane in range(TILE):
        count = seen.counts[lane]
        for at in range(count, whole(like, count)):
            seen.keys[lane, at], seen.places[lane, at] = seen.keys[lane, 0], seen.places[lane, 0]
            seen.biases[lane, at] = -np.inf
    return n_keys


@kernel
def whole(like, count):  # type: ignore[no-untyped-def]
    """A number of keys rounded up to whole vectors."""
    width = VECTOR_BYTES // micro.size_of(like)
    return (count + width - 1) // width * width


@kernel
def scored(like, lane, row, depth, k, stride, factor, pairs, entries, seen):  # type: ignore[no-untyped-def]
    """Scores of a query with the keys that it sees, in units of log 2; −∞ beyond them."""
    width, most = micro.size_of(like), seen.keys.shape[1]
    count = seen.counts[lane]
    micro_rows.dots(
        like,
        row,
        depth,
        k,
        stride,
        seen.keys.ctypes.data + lane * most * 4,
        whole(like, count),
        factor,
        seen.biases.ctypes.data + lane * most * width,
        seen.scores.ctypes.data,
    )
    add_pair_biases(like, lane, count, pairs, entries, seen)


def add_pair_biases(like: Any, lane: Any, count: Any, pairs: Any, entries: Any, seen: Any) -> None:
    """Add a bias for every pair to the scores of a query, if there is one; ``pairs`` as :func:`pair_places`."""


@overload(add_pair_biases)  # type: ignore[untyped-decorator]
def _add_pair_biases(like, lane, count, pairs, entries, seen):  # type: ignore[no-untyped-def]
    if isinstance(pairs, types.NoneType):
        return lambda like, lane, count, pairs, entries, seen: None

    def add(like, lane, count, pairs, entries, seen):  # type: ignore[no-untyped-def]
        for at in range(count):
            place = pair_place(pairs, entries[seen.places[lane, at]], lane)
            seen.scores[at] += micro.load(like, pairs[0], place)

    return add


def pair_place(pairs: Any, entry: Any, lane: Any) -> Any:
    """Where in a table of biases, or of their gradients, the number of a pair lies."""


@overload(pair_place)  # type: ignore[untyped-decorator]
def _pair_place(pairs, entry, lane):  # type: ignore[no-untyped-def]
    if len(pairs) == 2:  # rows of the entries of the plan
        return lambda pairs, entry, lane: (pairs[1] + entry) * TILE + lane
    return lambda pairs, entry, lane: pairs[2][pairs[1] + entry, lane] + pairs[3][lane]


def pairs_of(numbers: Any, rows: Any, table: Any, first: Any, offsets: Any) -> Any:
    """A bias for every pair, or its gradients, as :func:`pair_place` finds it; None without one.

    ``table`` is the address of a table, or where ``rows`` is not None of rows for each entry of the plan; ``first``
    is the entry of the plan from which others are counted.
    """


@overload(pairs_of)  # type: ignore[untyped-decorator]
def _pairs_of(numbers, rows, table, first, offsets):  # type: ignore[no-untyped-def]
    if isinstance(numbers, types.NoneType):
        return lambda numbers, rows, table, first, offsets: None
    if isinstance(rows, types.NoneType):
        return lambda numbers, rows, table, first, offsets: (table, first, numbers, offsets)
    return lambda numbers, rows, table, first, offsets: (table, first)


@kernel
def add_few(  # type: ignore[no-untyped-def]
    like,
    lane,
    state,
    k,
    k_stride,
    v,
    v_stride,
    depth,
    value_depth,
    base_two,
    one,
    gradients,
    row,
    pairs,
    added,
    entries,
    seen,
    bias_width,
):
    """Add what a query of a tile gives to its own gradient and to those of the tile's keys.

    Parameters
    ----------
    state
        See :class:`geoattn.backends.cpu.backward.State`; the gradient of the query is set.
    k, v
        Addresses of the rows of a head, with their strides.
    base_two, one
        Addresses of numbers: log2(e) and 1.
    gradients, row
        Address of a row for each key of the tile, and its length: of k, of v, and one of the bias if it has a
        ``bias_width``.
    pairs, added
        A bias for every pair and its gradients, see :func:`pairs_of`.
    """
    width, most = micro.size_of(like), seen.keys.shape[1]
    count = seen.counts[lane]
    if count == 0:
        return
    query = state.query_rows + lane * depth * width
    gradient = state.gradient_rows + lane * value_depth * width
    scores, products = seen.scores.ctypes.data, seen.products.ctypes.data
    listed, places = seen.keys.ctypes.data + lane * most * 4, seen.places.ctypes.data + lane * most * 4
    scored(like, lane, query, depth, k, k_stride, base_two, pairs, entries, seen)
    zeros = seen.zeros.ctypes.data
    micro_rows.dots(
        like, gradient, value_depth, v, v_stride, listed, whole(like, count), one, zeros, products
    )
    level, delta = state.levels + lane * width, state.delta + lane * width
    micro_rows.differences(like, scores, products, whole(like, count), level, delta)
    own = state.query_gradients + lane * depth * width
    micro_rows.mix(like, k, k_stride, listed, (count + 1) // 2 * 2, products, depth, own)
    of_values = gradients + depth * width
    micro_rows.add_multiples(like, query, depth, products, places, count, gradients, row)
    micro_rows.add_multiples(like, gradient, value_depth, scores, places, count, of_values, row)
    add_pair_gradients(like, lane, count, added, entries, seen)
    if bias_width:
        for at in range(count):
            column = seen.places[lane, at] * row + value_depth
            total = micro.load(like, of_values, column) + seen.products[at]
            micro.store(like, of_values, column, total)


def add_pair_gradients(like: Any, lane: Any, count: Any, added: Any, entries: Any, seen: Any) -> None:
    """Add gradients of a query's scores to those of its biases for pairs, if these are asked for."""


@overload(add_pair_gradients)  # type: ignore[untyped-decorator]
def _add_pair_gradients(like, lane, count, added, entries, seen):  # type: ignore[no-untyped-def]
    if isinstance(added, types.NoneType):
        return lambda like, lane, count, added, entries, seen: None

    def add(like, lane, count, added, entries, seen):  # type: ignore[no-untyped-def]
        for at in range(count):
            place = pair_place(added, entries[seen.places[lane, at]], lane)
            total = micro.load(like, added[0], place) + seen.products[at]
            micro.store(like, added[0], place, total)

    return add


@entry_point
def forward_few(  # type: ignore[no-untyped-def]
    like,
    counters,
    lists,
    order,
    most,
    together,
    q,
    k,
    v,
    bias,
    out,
    lse,
    sizes,
    scales,
    numbers,
    rows,
    table,
):
    """Take work items until none is left: all that one thread does.

    Parameters are those of :func:`geoattn.backends.cpu.forward.forward`, but for ``most``, which is at least the
    number of keys of any query, in whole vectors.
    """
    batch, heads, key_heads, depth, value_depth, _ = sizes
    shared = heads // key_heads
    parts = (key_heads + together - 1) // together
    items = batch * parts * len(order)
    longest = 0
    for number in range(len(lists.indptr) - 1):
        longest = max(longest, lists.indptr[number + 1] - lists.indptr[number])
    tokens, entries = np.empty(longest, np.int32), np.empty(longest, np.int32)
    offsets, seen = np.empty(TILE, np.int32), seen_keys(like, most)
    numbers_of = np.empty(4, type(like))  # factor, maximum, total, inverse
    width = numbers_of.itemsize
    factor = numbers_of.ctypes.data
    maximum, total, inverse = factor + width, factor + 2 * width, factor + 3 * width
    lowest = type(like)(LOWEST[width // 8])
    mixed = aligned(value_depth, like)
    while True:
        item = micro.take_ticket(counters.ctypes.data)
        if item >= items:
            break
        tile = order[item % len(order)]
        part, b = item // len(order) % parts, item // (len(order) * parts)
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        list_seen(like, lists, tile, bias_at, tokens, entries, seen)
        if numbers is not None:
            lane_offsets(lists.query_order, tile * TILE, table[2], offsets)
        first = lists.indptr[lists.tile_class[tile]]
        for key_head in range(part * together, min(key_heads, (part + 1) * together)):
            k_at = k[0] + (b * k[1] + key_head * k[3]) * width
            v_at = v[0] + (b * v[1] + key_head * v[3]) * width
            for head in range(key_head * shared, (key_head + 1) * shared):
                numbers_of[0] = scales[min(b, len(scales) - 1), head] * type(like)(LOG2_E)
                pairs = pairs_of(
                    numbers, rows, table[0] + (b * table[1] + head * table[3]) * width, first, offsets
                )
                q_at = q[0] + (b * q[1] + head * q[3]) * width
                out_at = out[0] + (b * out[1] + head * out[3]) * width
                lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
                for lane in range(TILE):
                    token = lists.query_order[tile * TILE + lane]
                    if token < 0:
                        continue
                    count = seen.counts[lane]
                    scored(
                        like,
                        lane,
                        q_at + token * q[2] * width,
                        depth,
                        k_at,
                        k[2],
                        factor,
                        pairs,
                        entries,
                        seen,
                    )
                    numbers_of[1] = lowest
                    micro_rows.softmax(like, seen.scores.ctypes.data, whole(like, count), maximum, total)
                    if numbers_of[2] > 0 and abs(numbers_of[1]) > -lowest / 2:
                        counters[1] = 1
                    level, numbers_of[3] = weigh(like, numbers_of[1], numbers_of[2])
                    micro.store(like, lse_at, token * lse[2], level)
                    listed = seen.keys.ctypes.data + lane * most * 4
                    micro_rows.mix(
                        like,
                        v_at,
                        v[2],
                        listed,
                        (count + 1) // 2 * 2,
                        seen.scores.ctypes.data,
                        value_depth,
                        mixed.ctypes.data,
                    )
                    target = out_at + token * out[2] * width
                    micro.scale_row(like, mixed.ctypes.data, inverse, value_depth, target)
    return mixed.size + seen.scores.size + numbers_of.size  # an array is freed after its last mention
