"""The forward pass: online softmax over the key lists of each group of query lanes."""

from __future__ import annotations

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
    state_of,
)
from geoattn.backends.cpu.memory import int_at, put_word, word_at
from geoattn.backends.cpu.room import GROUPS

LN_2 = 0.6931471805599453


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
    plan, sizes = plan_at(block, AT.plan), sizes_at(block, AT.sizes)
    order, n_tiles = word_at(block, AT.order), word_at(block, AT.order + 1)
    most, together, capacity = (
        word_at(block, AT.block),
        word_at(block, AT.together),
        word_at(block, AT.capacity),
    )
    scales, numbers = scales_at(block, AT.scales), word_at(block, AT.numbers)
    q, k, v = view_at(block, AT.q), view_at(block, AT.k), view_at(block, AT.v)
    out, lse, table = view_at(block, AT.out), view_at(block, AT.lse), view_at(block, AT.pair_bias)
    depth, value_depth, value_width = sizes.depth, sizes.value_depth, sizes.value_width
    key_heads, shared = sizes.key_heads, sizes.heads // sizes.key_heads
    parts = (key_heads + together - 1) // together
    items, width = sizes.batch * parts * n_tiles, memory.size_of(like)
    start = own_memory(block)
    listed, room = listed_at(block, AT.listed, start), room_at(block, AT.room, start)
    # maxima start at the lowest number, since −∞ would make NaN of the difference to a hidden score; beyond
    # half of it, a score may be a bias that has lost its place when it became one of log 2
    lowest = type(like)(LOWEST[width // 8])
    # rows of v are read where they lie if they are whole vectors
    packed = value_width > value_depth
    if packed:
        memory.fill(like, room.packed, most * value_width, like * 0)  # what lies beyond the depth stays 0
    memory.fill(like, room.zeros, depth, like * 0)
    while True:
        item = memory.take_ticket(block + 8 * AT.items)
        if item >= items:
            break
        # neighboring tiles follow each other: their keys are still in the cache
        tile = int_at(order, item % n_tiles)
        part, b = item // n_tiles % parts, item // (n_tiles * parts)
        first_key_head = part * together
        last_key_head = min(key_heads, first_key_head + together)
        first_head, last_head = first_key_head * shared, last_key_head * shared
        bias = word_at(block, AT.bias)
        if bias != 0:
            bias += b * word_at(block, AT.bias + 1) * width
        tokens = plan.query_order + tile * TILE * 4
        for head in range(first_head, last_head):
            state = state_of(block, room, head - first_head)
            q_at = q.address + (b * q.batch + head * q.head) * width
            scale = memory.load(like, scales.address, b * scales.batch + head)
            memory.store(like, room.factor, 0, scale * type(like)(LOG2_E))
            rows.turn(like, q_at, q.token, tokens, depth, room.factor, room.zeros, state.queries)
            memory.fill(like, state.sums, TILE * value_width, like * 0)
            for lane in range(TILE):
                memory.store(like, state.totals, lane, like * 0)
                memory.store(like, state.maxima, lane, lowest)
        if related is not None:
            lane_offsets(plan.query_order, tile * TILE, table.token, room.offsets)
        number = int_at(plan.tile_class, tile)
        first, last = word_at(plan.indptr, number), word_at(plan.indptr, number + 1)
        for begin in range(first, last, most):
            end = min(last, begin + most)
            n_keys = list_keys(like, plan, tile, begin, end, bias, listed, capacity)
            for key_head in range(first_key_head, last_key_head):
                k_at = k.address + (b * k.batch + key_head * k.head) * width
                v_at = v.address + (b * v.batch + key_head * v.head) * width
                values, value_stride, value_rows = v_at, v.token, listed.keys
                if packed:
                    rows.pack(
                        like,
                        v_at,
                        v.token,
                        listed.tokens,
                        n_keys,
                        value_depth,
                        room.packed,
                        value_width,
                    )
                    values, value_stride, value_rows = room.packed, value_width, listed.places
                for head in range(key_head * shared, (key_head + 1) * shared):
                    state = state_of(block, room, head - first_head)
                    table_at = table.address + (b * table.batch + head * table.head) * width
                    for lane in range(TILE):
                        memory.store(like, room.before, lane, memory.load(like, state.maxima, lane))
                    for group in range(GROUPS):
                        # keys that two groups see meet them both at once
                        alike = word_at(listed.both, group // 2)
                        results = room.probabilities + group % 2 * capacity * LANES * width
                        lanes = group * LANES * width
                        here, rest = group * capacity, group * capacity + alike
                        pairs = pairs_at(
                            like,
                            related,
                            in_rows,
                            numbers,
                            begin,
                            group,
                            listed.entries,
                            room.offsets,
                            table_at,
                        )
                        if group % 2 == 0 and alike > 0:
                            micro.scores_of_two(
                                like,
                                k_at,
                                k.token,
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
                        count = word_at(listed.counts, group)
                        if count == 0:
                            continue
                        micro.scores(
                            like,
                            k_at,
                            k.token,
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
                        if begin > first:
                            rescale(
                                like,
                                room.before + lanes,
                                state.maxima + lanes,
                                state.totals + lanes,
                                state.sums + lanes * value_width,
                                value_width,
                            )
                        micro.exponentials(
                            like, results, padded(count), state.maxima + lanes, state.totals + lanes
                        )
                        micro.gather(
                            like,
                            values,
                            value_stride,
                            value_rows + here * 4,
                            count,
                            results,
                            state.sums + lanes * value_width,
                            value_width,
                        )
        for head in range(first_head, last_head):
            state = state_of(block, room, head - first_head)
            out_at = out.address + (b * out.batch + head * out.head) * width
            lse_at = lse.address + (b * lse.batch + head * lse.head) * width
            for lane in range(TILE):
                token = int_at(plan.query_order, tile * TILE + lane)
                if token < 0:
                    continue
                maximum, total = memory.load(like, state.maxima, lane), memory.load(like, state.totals, lane)
                if total > 0 and abs(maximum) > -lowest / 2:
                    put_word(block, AT.extreme, 1)
                level, inverse = weigh(like, maximum, total)
                memory.store(like, lse_at, token * lse.token, level)
                memory.store(like, room.factor, 0, inverse)
                rows.scale_row(
                    like,
                    state.sums + lane * value_width * width,
                    room.factor,
                    value_depth,
                    out_at + token * out.token * width,
                )


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
