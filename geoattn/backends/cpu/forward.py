"""The forward pass: online softmax over the key lists of each group of query lanes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geoattn.backends.cpu import memory, micro, rows
from geoattn.backends.cpu.blocks import AT, listed_at, plan_at, room_at, scales_at, sizes_at, view_at
from geoattn.backends.cpu.compiled import kernel, task
from geoattn.backends.cpu.emitted import LANES, TILE
from geoattn.backends.cpu.lists import (
    LOG2_E,
    LOWEST,
    lane_offsets,
    list_keys,
    own_memory,
    padded,
    pairs_at,
    rows_at,
    state_of,
)
from geoattn.backends.cpu.memory import int_at, put_word, word_at
from geoattn.backends.cpu.room import GROUPS

LN_2 = 0.6931471805599453


class Keys(NamedTuple):
    """Addresses of the rows of k in one head, and of those of v in whole vectors, with their stride."""

    k: int
    values: int
    stride: int
    #: which of the latter each group of lanes sees: address of int32 lists ``[GROUPS, capacity]``
    lists: int


@task
def forward(like, related, in_rows, block):  # type: ignore[no-untyped-def]
    """Take work items until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the element type.
    related
        None without a relation; else any number.
    in_rows
        None where biases are looked up in a table by number; else any number.
    block
        Its address, see :mod:`geoattn.backends.cpu.blocks`.
    """
    plan, sizes, width = plan_at(block, AT.plan), sizes_at(block, AT.sizes), memory.size_of(like)
    n_tiles, together = word_at(block, AT.order + 1), word_at(block, AT.together)
    most, capacity = word_at(block, AT.block), word_at(block, AT.capacity)
    depth, value_width = sizes.depth, sizes.value_width
    shared, parts = sizes.heads // sizes.key_heads, (sizes.key_heads + together - 1) // together
    stride, numbers = view_at(block, AT.k).token, word_at(block, AT.numbers)
    table = view_at(block, AT.pair_bias)
    start = own_memory(block)
    listed, room = listed_at(block, AT.listed, start), room_at(block, AT.room, start)
    memory.fill(like, room.zeros, depth, like * 0)
    if value_width > sizes.value_depth:
        memory.fill(like, room.packed, most * value_width, like * 0)  # what lies beyond the depth stays 0
    while True:
        item = memory.take_ticket(block + 8 * AT.items)
        if item >= sizes.batch * parts * n_tiles:
            break
        # neighboring tiles follow each other: their keys are still in the cache
        tile, batch = int_at(word_at(block, AT.order), item % n_tiles), item // (n_tiles * parts)
        low = item // n_tiles % parts * together
        high = min(sizes.key_heads, low + together)
        bias = word_at(block, AT.bias)
        if bias != 0:
            bias += batch * word_at(block, AT.bias + 1) * width
        for head in range(low * shared, high * shared):
            begin(like, block, start, batch, head, head - low * shared, tile)
        if related is not None:
            lane_offsets(plan.query_order, tile * TILE, table.token, room.offsets)
        label = int_at(plan.tile_class, tile)
        entry, end = word_at(plan.indptr, label), word_at(plan.indptr, label + 1)
        for first in range(entry, end, most):
            n_keys = list_keys(like, plan, tile, first, min(end, first + most), bias, listed, capacity)
            for head in range(low * shared, high * shared):
                if head % shared == 0:
                    of_keys = begin_keys(like, block, start, batch, head // shared, n_keys)
                state = state_of(block, room, head - low * shared)
                table_at = rows_at(like, table, batch, head)
                for lane in range(TILE):
                    memory.store(like, room.before, lane, memory.load(like, state.maxima, lane))
                for group in range(GROUPS):
                    # keys that two groups see meet them both at once
                    alike, count = word_at(listed.both, group // 2), word_at(listed.counts, group)
                    results = room.probabilities + group % 2 * capacity * LANES * width
                    lanes, here = group * LANES * width, group * capacity
                    rest = here + alike
                    pairs = pairs_at(
                        like, related, in_rows, numbers, first, group, listed.entries, room.offsets, table_at
                    )
                    if group % 2 == 0 and alike > 0:
                        micro.scores_of_two(
                            like,
                            of_keys.k,
                            stride,
                            listed.keys + here * 4,
                            listed.places + here * 4,
                            alike,
                            state.queries + lanes * depth,
                            depth,
                            listed.biases + here * width,
                            listed.masks + here * 4,
                            capacity,
                            results,
                            state.maxima + lanes,
                            pairs,
                        )
                    if count == 0:
                        continue
                    micro.scores(
                        like,
                        of_keys.k,
                        stride,
                        listed.keys + rest * 4,
                        listed.places + rest * 4,
                        padded(count) - alike,
                        state.queries + lanes * depth,
                        depth,
                        listed.biases + rest * width,
                        listed.masks + rest * 4,
                        capacity,
                        results + alike * LANES * width,
                        state.maxima + lanes,
                        pairs,
                    )
                    maxima, totals, sums = (
                        state.maxima + lanes,
                        state.totals + lanes,
                        state.sums + lanes * value_width,
                    )
                    if first > entry:
                        rescale(like, room.before + lanes, maxima, totals, sums, value_width)
                    micro.exponentials(like, results, padded(count), maxima, totals)
                    micro.gather(
                        like,
                        of_keys.values,
                        of_keys.stride,
                        of_keys.lists + here * 4,
                        count,
                        results,
                        sums,
                        value_width,
                    )
        for head in range(low * shared, high * shared):
            finish(like, block, start, batch, head, head - low * shared, tile)


@kernel
def lowest(like):  # type: ignore[no-untyped-def]
    """The lowest number, at which maxima start: −∞ would make NaN of the difference to a hidden score."""
    return type(like)(LOWEST[memory.size_of(like) // 8])


@kernel
def begin(like, block, start, batch, head, place, tile):  # type: ignore[no-untyped-def]
    """The state of a head that has met no key; ``place`` is that among the heads of an item."""
    room, sizes, q = room_at(block, AT.room, start), sizes_at(block, AT.sizes), view_at(block, AT.q)
    scales, state = scales_at(block, AT.scales), state_of(block, room, place)
    scale = memory.load(like, scales.address, batch * scales.batch + head)
    memory.store(like, room.factor, 0, scale * type(like)(LOG2_E))
    tokens = plan_at(block, AT.plan).query_order + tile * TILE * 4
    q_at = rows_at(like, q, batch, head)
    rows.turn(like, q_at, q.token, tokens, sizes.depth, room.factor, room.zeros, state.queries)
    memory.fill(like, state.sums, TILE * sizes.value_width, like * 0)
    for lane in range(TILE):
        memory.store(like, state.totals, lane, like * 0)
        memory.store(like, state.maxima, lane, lowest(like))


@kernel
def begin_keys(like, block, start, batch, key_head, n_keys):  # type: ignore[no-untyped-def]
    """Rows of the listed keys in a head of theirs."""
    room, listed = room_at(block, AT.room, start), listed_at(block, AT.listed, start)
    sizes, k, v = sizes_at(block, AT.sizes), view_at(block, AT.k), view_at(block, AT.v)
    k_at, v_at = rows_at(like, k, batch, key_head), rows_at(like, v, batch, key_head)
    # rows of v are read where they lie if they are whole vectors
    if sizes.value_width == sizes.value_depth:
        return Keys(k_at, v_at, v.token, listed.keys)
    rows.pack(like, v_at, v.token, listed.tokens, n_keys, sizes.value_depth, room.packed, sizes.value_width)
    return Keys(k_at, room.packed, sizes.value_width, listed.places)


@kernel
def finish(like, block, start, batch, head, place, tile):  # type: ignore[no-untyped-def]
    """Write the results of a tile in one head."""
    room, sizes, width = room_at(block, AT.room, start), sizes_at(block, AT.sizes), memory.size_of(like)
    out, lse, order = view_at(block, AT.out), view_at(block, AT.lse), plan_at(block, AT.plan).query_order
    state = state_of(block, room, place)
    out_at, lse_at = rows_at(like, out, batch, head), rows_at(like, lse, batch, head)
    for lane in range(TILE):
        token = int_at(order, tile * TILE + lane)
        if token < 0:
            continue
        maximum, total = memory.load(like, state.maxima, lane), memory.load(like, state.totals, lane)
        # beyond half of the lowest number, a score may be a bias that was cut when it became one of log 2
        if total > 0 and abs(maximum) > -lowest(like) / 2:
            put_word(block, AT.extreme, 1)
        level, inverse = weigh(like, maximum, total)
        memory.store(like, lse_at, token * lse.token, level)
        memory.store(like, room.factor, 0, inverse)
        source = state.sums + lane * sizes.value_width * width
        rows.scale_row(like, source, room.factor, sizes.value_depth, out_at + token * out.token * width)


@kernel
def rescale(like, before, maxima, totals, sums, width):  # type: ignore[no-untyped-def]
    """Bring what was summed below old maxima below the new ones."""
    for lane in range(LANES):
        new, old = memory.load(like, maxima, lane), memory.load(like, before, lane)
        if new > old:
            factor = type(like)(np.exp2(old - new))
            memory.store(like, totals, lane, memory.load(like, totals, lane) * factor)
            for at in range(lane * width, (lane + 1) * width):
                memory.store(like, sums, at, memory.load(like, sums, at) * factor)


@kernel
def weigh(like, maximum, total):  # type: ignore[no-untyped-def]
    """Log-sum-exp and inverse weight of one query; −∞ and 0 where no key was visible, NaN where one was."""
    if total == 0:
        return type(like)(-np.inf), like * 0
    level = np.float64(maximum) + np.log2(np.float64(total))
    return type(like)(level * LN_2), type(like)(1) / total
