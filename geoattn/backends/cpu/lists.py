"""Key lists of a query tile, cut down to what each group of lanes sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.compiled import entry_point, kernel

LANES, KEY_BLOCK = micro.LANES, micro.KEY_BLOCK
TILE = micro.TILE
#: groups of lanes that make up a tile
GROUPS = TILE // LANES
LOG2_E = 1.4426950408889634
#: the lowest number of each width in bytes
LOWEST = (float(np.finfo(np.float32).min), float(np.finfo(np.float64).min))


@kernel
def aligned(size, like):  # type: ignore[no-untyped-def]
    """Uninitialised elements of the type of ``like`` that start on a cache line."""
    raw = np.empty(size + 16, type(like))
    skip = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[skip : skip + size]


@kernel
def list_keys(  # type: ignore[no-untyped-def]
    like, plan, tile, first, last, bias, tokens, entries, keys, places, masks, biases, both, counts
):
    """Read entries ``first`` to ``last`` of the plan for one tile; returns how many keys they hold.

    A query tile lists all keys of its 32 queries; a group of 8 or 16 lanes sees about two thirds
    of them, and passing over the rest costs little beside the arithmetic it saves. Keys whose bias
    is −∞ are left out too: what they hold (NaN over land, say) never meets the arithmetic.

    Room is needed for one entry more than there are. A ring of the plan turns as a whole.

    Parameters
    ----------
    plan
        See :class:`geoattn.backends.cpu.schedule.Lists`.
    bias
        Address of the additive vector, 0 for none.
    tokens, entries
        Results: the keys of the tile, and the entry of each, counted from ``first``.
    keys, places, masks, biases
        Results ``[GROUPS, capacity]``, of the keys that any lane of the group sees: token, place among
        ``tokens``, visible lanes, bias in units of log 2. Each list is padded to a multiple of
        ``KEY_BLOCK`` with the first key of the tile, seen by no lane.
    both
        Result ``[GROUPS / 2]``: so many keys at the front of the lists of a pair of groups are the
        same in both, a multiple of ``KEY_BLOCK``.
    counts
        Result ``[GROUPS]``: entries without the padding.
    """
    capacity = keys.shape[1]
    dealt = np.empty(GROUPS // 2 + GROUPS + 1, np.int64)
    micro.split(
        like,
        plan.key_tiles.ctypes.data + 4 * first,
        plan.lanes.ctypes.data + 4 * first,
        last - first,
        plan.key_order.ctypes.data,
        plan.ring,
        plan.tile_shift[tile],
        bias,
        capacity,
        tokens.ctypes.data,
        entries.ctypes.data,
        keys.ctypes.data,
        places.ctypes.data,
        masks.ctypes.data,
        biases.ctypes.data,
        dealt.ctypes.data,
    )
    for group in range(GROUPS):
        front, back = dealt[group // 2], dealt[GROUPS // 2 + group]
        both[group // 2] = front // KEY_BLOCK * KEY_BLOCK
        count = counts[group] = front + back
        for at in range(front, count):
            keys[group, at] = keys[group, at + capacity - count]
            places[group, at] = places[group, at + capacity - count]
            masks[group, at] = masks[group, at + capacity - count]
            biases[group, at] = biases[group, at + capacity - count]
        for at in range(count, padded(count)):
            keys[group, at] = tokens[0]
            places[group, at] = 0
            masks[group, at] = 0
            biases[group, at] = 0
    return dealt[GROUPS // 2 + GROUPS]


@kernel
def lane_offsets(order, start, stride, offsets):  # type: ignore[no-untyped-def]
    """Where in a table the part of each query of a tile begins; ``stride`` is 0 where they share one."""
    for lane in range(TILE):
        offsets[lane] = max(0, order[start + lane]) * stride


def pairs_at(
    like: Any, numbers: Any, rows: Any, begin: Any, group: Any, entries: Any, offsets: Any, table: Any
) -> Any:
    """What the micro-kernels take of a bias for every pair, for a group of lanes.

    Without ``numbers``, None. Where ``rows`` is None the biases are looked up in the table, else ``table`` is
    the address of a row of them for each entry. ``begin`` is the entry from which ``entries`` are counted.
    """
    if numbers is None:
        return None
    if rows is None:
        return _looked_up(numbers, begin, group, entries, offsets, table)
    return _in_rows(like, begin, group, entries, table)


@kernel
def _looked_up(numbers, begin, group, entries, offsets, table):  # type: ignore[no-untyped-def]
    lanes = group * LANES * 4
    first = numbers.ctypes.data + begin * TILE * 4
    return entries.ctypes.data, first + lanes, offsets.ctypes.data + lanes, table


@kernel
def _in_rows(like, begin, group, entries, table):  # type: ignore[no-untyped-def]
    return entries.ctypes.data, table + (begin * TILE + group * LANES) * micro.size_of(like)


@overload(pairs_at)  # type: ignore[untyped-decorator]
def _pairs_at(like, numbers, rows, begin, group, entries, offsets, table):  # type: ignore[no-untyped-def]
    # by the types: branches in the kernel would make one optional type of all
    if isinstance(numbers, types.NoneType):
        return lambda like, numbers, rows, begin, group, entries, offsets, table: None
    if isinstance(rows, types.NoneType):
        return lambda like, numbers, rows, begin, group, entries, offsets, table: _looked_up(
            numbers, begin, group, entries, offsets, table
        )
    return lambda like, numbers, rows, begin, group, entries, offsets, table: _in_rows(
        like, begin, group, entries, table
    )


@kernel
def padded(count):  # type: ignore[no-untyped-def]
    """A number of keys rounded up to whole blocks."""
    return (count + KEY_BLOCK - 1) // KEY_BLOCK * KEY_BLOCK


@kernel
def fill(like, address, count, value):  # type: ignore[no-untyped-def]
    """Set ``count`` elements at an address."""
    for at in range(count):
        micro.store(like, address, at, value)


@kernel
def load_rows(like, order, start, base, stride, depth, width, factor, rows):  # type: ignore[no-untyped-def]
    """rows[l, 0:width] = factor * x[order[start + l]] for a tile; 0 beyond depth and for padding.

    ``factor`` is the address of a number.
    """
    fill(like, rows, TILE * width, like * 0)
    size = micro.size_of(like)
    for lane in range(TILE):
        if order[start + lane] >= 0:
            micro.fetch(like, base + order[start + lane] * stride * size, depth)
    for lane in range(TILE):
        token = order[start + lane]
        if token >= 0:
            micro.scale_row(like, base + token * stride * size, factor, depth, rows + lane * width * size)


@entry_point
def spread_table(like, tickets, numbers, source, n_rows, count, target):  # type: ignore[no-untyped-def]
    """Rows of a table in units of log 2, one thread's share.

    Parameters
    ----------
    tickets
        Shared by all threads: how many rows are taken.
    numbers
        Which entry of a row stands at each place of its result, ``count`` for 0; None for all in turn, and
        one more 0.
    source, target
        Addresses of ``[n_rows, count]`` and of ``[n_rows, len(numbers) or count + 1]`` numbers.
    """
    width = micro.size_of(like)
    places = count + 1 if numbers is None else len(numbers)
    most = type(like)(-LOWEST[width // 8])
    while True:
        row = micro.take_ticket(tickets.ctypes.data)
        if row >= n_rows:
            break
        own = source + row * count * width
        result = target + row * places * width
        for place in range(places):
            number = place if numbers is None else numbers[place]
            bias = like * 0
            if number < count:
                bias = micro.load(like, own, number)
                scaled = bias * type(like)(LOG2_E)
                # a finite bias stays finite, however large
                bias = min(max(scaled, -most), most) if abs(bias) <= most else scaled
            micro.store(like, result, place, bias)
    return 0
