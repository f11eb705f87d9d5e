"""Key lists of a query tile, cut down to what each group of lanes sees."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from geoattn.backends.cpu import memory, rows
from geoattn.backends.cpu.blocks import AT, state_at
from geoattn.backends.cpu.compiled import kernel
from geoattn.backends.cpu.emitted import KEY_BLOCK, LANES, TILE
from geoattn.backends.cpu.memory import int_at, put_int, put_word, word_at
from geoattn.backends.cpu.room import GROUPS
from geoattn.backends.cpu.split import split

LOG2_E = 1.4426950408889634
#: the lowest number of each width in bytes
LOWEST = (float(np.finfo(np.float32).min), float(np.finfo(np.float64).min))


@kernel
def own_memory(block):  # type: ignore[no-untyped-def]
    """The memory of the thread that asks."""
    number = memory.take_ticket(block + 8 * AT.threads)
    return word_at(block, AT.memory) + number * word_at(block, AT.memory + 1)


@kernel
def rows_at(like, view, batch, head):  # type: ignore[no-untyped-def]
    """Address of a tensor's rows for a batch entry and a head."""
    return view.address + (batch * view.batch + head * view.head) * memory.size_of(like)


@kernel
def state_of(block, room, place):  # type: ignore[no-untyped-def]
    """The state of one of the heads that a thread works on together."""
    return state_at(block, AT.state, room.states + place * word_at(block, AT.state_size))


@kernel
def list_keys(like, plan, tile, first, last, bias, listed, capacity):  # type: ignore[no-untyped-def]
    """Read entries ``first`` to ``last`` of the plan for one tile; returns how many keys they hold.

    A query tile lists all keys of its 32 queries; a group of 8 or 16 lanes sees about two thirds
    of them, and passing over the rest costs little beside the arithmetic it saves. Keys whose bias
    is −∞ are left out too: what they hold (NaN over land, say) never meets the arithmetic.

    Room is needed for one entry more than there are. A ring of the plan turns as a whole.

    Parameters
    ----------
    plan
        See :class:`geoattn.backends.cpu.blocks.Plan`.
    bias
        Address of the additive vector, 0 for none.
    listed, capacity
        Where results go, see :class:`geoattn.backends.cpu.room.Listed`.
    """
    split(
        like,
        plan.key_tiles + 4 * first,
        plan.lanes + 4 * first,
        last - first,
        plan.key_order,
        plan.ring,
        int_at(plan.tile_shift, tile),
        bias,
        capacity,
        listed.tokens,
        listed.entries,
        listed.keys,
        listed.places,
        listed.masks,
        listed.biases,
        listed.dealt,
    )
    token = int_at(listed.tokens, 0)
    for group in range(GROUPS):
        front = word_at(listed.dealt, group // 2)
        count = front + word_at(listed.dealt, GROUPS // 2 + group)
        put_word(listed.both, group // 2, front // KEY_BLOCK * KEY_BLOCK)
        put_word(listed.counts, group, count)
        start = group * capacity
        behind = start + capacity - count
        for at in range(front, count):
            put_int(listed.keys, start + at, int_at(listed.keys, behind + at))
            put_int(listed.places, start + at, int_at(listed.places, behind + at))
            put_int(listed.masks, start + at, int_at(listed.masks, behind + at))
            memory.store(like, listed.biases, start + at, memory.load(like, listed.biases, behind + at))
        for at in range(count, padded(count)):
            put_int(listed.keys, start + at, token)
            put_int(listed.places, start + at, 0)
            put_int(listed.masks, start + at, 0)
            memory.store(like, listed.biases, start + at, like * 0)
    return word_at(listed.dealt, GROUPS // 2 + GROUPS)


@kernel
def lane_offsets(order, start, stride, offsets):  # type: ignore[no-untyped-def]
    """Where in a table the part of each query of a tile begins; ``stride`` is 0 where they share one."""
    for lane in range(TILE):
        put_int(offsets, lane, max(0, int_at(order, start + lane)) * stride)


def pairs_at(
    like: Any,
    related: Any,
    in_rows: Any,
    numbers: Any,
    begin: Any,
    group: Any,
    entries: Any,
    offsets: Any,
    table: Any,
) -> Any:
    """What the micro-kernels take of a bias for every pair, for a group of lanes.

    Where ``related`` is None, None. Where ``in_rows`` is None the biases are looked up in the table, else
    ``table`` is the address of a row of them for each entry. ``entries`` are counted from ``begin``.
    """
    if related is None:
        return None
    if in_rows is None:
        return _looked_up(numbers, begin, group, entries, offsets, table)
    return _in_rows(like, begin, group, entries, table)


@kernel
def _looked_up(numbers, begin, group, entries, offsets, table):  # type: ignore[no-untyped-def]
    lanes = group * LANES * 4
    return entries, numbers + begin * TILE * 4 + lanes, offsets + lanes, table


@kernel
def _in_rows(like, begin, group, entries, table):  # type: ignore[no-untyped-def]
    return entries, table + (begin * TILE + group * LANES) * memory.size_of(like)


@overload(pairs_at)  # type: ignore[untyped-decorator]
def _pairs_at(like, related, in_rows, numbers, begin, group, entries, offsets, table):  # type: ignore[no-untyped-def]
    # by the types: branches in the kernel would make one optional type of all
    if isinstance(related, types.NoneType):
        return lambda like, related, in_rows, numbers, begin, group, entries, offsets, table: None
    if isinstance(in_rows, types.NoneType):
        return lambda like, related, in_rows, numbers, begin, group, entries, offsets, table: _looked_up(
            numbers, begin, group, entries, offsets, table
        )
    return lambda like, related, in_rows, numbers, begin, group, entries, offsets, table: _in_rows(
        like, begin, group, entries, table
    )


@kernel
def padded(count):  # type: ignore[no-untyped-def]
    """A number of keys rounded up to whole blocks."""
    return (count + KEY_BLOCK - 1) // KEY_BLOCK * KEY_BLOCK


@kernel
def load_rows(like, order, start, base, stride, depth, width, factor, target):  # type: ignore[no-untyped-def]
    """target[l, 0:width] = factor * x[order[start + l]] for a tile; 0 beyond depth and for padding.

    ``factor`` is the address of a number.
    """
    memory.fill(like, target, TILE * width, like * 0)
    size = memory.size_of(like)
    for lane in range(TILE):
        token = int_at(order, start + lane)
        if token >= 0:
            rows.fetch(like, base + token * stride * size, depth)
    for lane in range(TILE):
        token = int_at(order, start + lane)
        if token >= 0:
            rows.scale_row(like, base + token * stride * size, factor, depth, target + lane * width * size)
