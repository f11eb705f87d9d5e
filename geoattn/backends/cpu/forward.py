"""The forward pass: online softmax over the key lists of each group of query lanes."""

from __future__ import annotations

import numpy as np

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.blocks import (
    AT,
    integers_at,
    lists_at,
    numbers_at,
    scales_at,
    sizes_at,
    view_at,
    words_at,
)
from geoattn.backends.cpu.compiled import kernel, task
from geoattn.backends.cpu.lists import (
    GROUPS,
    KEY_BLOCK,
    LANES,
    LOG2_E,
    LOWEST,
    TILE,
    aligned,
    fill,
    lane_offsets,
    list_keys,
    padded,
    pairs_at,
)

LN_2 = 0.6931471805599453


@task
def forward(like, related, rows, address):  # type: ignore[no-untyped-def]
    """Take work items until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the element type.
    related
        None without a relation; else any number.
    rows
        None where biases are looked up in a table by number; else any number.
    address
        Of the block, see :mod:`geoattn.backends.cpu.blocks`.
    """
    words = words_at(address)
    lists, order, numbers = (
        lists_at(words),
        integers_at(words, AT.order),
        numbers_at(related, words, AT.numbers),
    )
    block, together = words[AT.block], words[AT.together]
    batch, heads, key_heads, depth, value_depth, value_width = sizes_at(words)
    scales, bias = scales_at(like, words, heads), (words[AT.bias], words[AT.bias + 1])
    q, k, v, table = (
        view_at(words, AT.q),
        view_at(words, AT.k),
        view_at(words, AT.v),
        view_at(words, AT.pair_bias),
    )
    out, lse = view_at(words, AT.out), view_at(words, AT.lse)
    shared = heads // key_heads
    parts = (key_heads + together - 1) // together
    items = batch * parts * len(order)
    capacity = block + KEY_BLOCK
    tokens, entries = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    offsets = np.empty(TILE, np.int32)
    keys, places = np.empty((GROUPS, capacity), np.int32), np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    both, counts = np.empty(GROUPS // 2, np.int64), np.empty(GROUPS, np.int64)
    factor, inverse = np.empty(1, type(like)), np.empty(1, type(like))
    width = biases.itemsize
    # maxima start at the lowest number, since −∞ would make NaN of the difference to a hidden score; beyond
    # half of it, a score may be a bias that has lost its place when it became one of log 2
    lowest = type(like)(LOWEST[width // 8])
    # rows of v are read where they lie if they are whole vectors
    packed = value_width > value_depth
    # one buffer: the state of each head, old maxima, scores of two groups, packed rows of a block, zeros
    state = TILE * (depth + value_width + 2)
    packed_size = block * value_width if packed else 0
    buffer = aligned(together * shared * state + TILE + 2 * capacity * LANES + packed_size + depth, like)
    states = buffer.ctypes.data
    before = states + together * shared * state * width
    scores = before + TILE * width
    packed_values = scores + 2 * capacity * LANES * width
    zeros = packed_values + packed_size * width
    fill(like, packed_values, packed_size, like * 0)  # what lies beyond the depth stays 0
    fill(like, zeros, depth, like * 0)
    while True:
        item = micro.take_ticket(address + 8 * AT.items)
        if item >= items:
            break
        # neighboring tiles follow each other: their keys are still in the cache
        tile = order[item % len(order)]
        part, b = item // len(order) % parts, item // (len(order) * parts)
        first_key_head = part * together
        last_key_head = min(key_heads, first_key_head + together)
        first_head, last_head = first_key_head * shared, last_key_head * shared
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        listed = lists.query_order.ctypes.data + tile * TILE * 4
        for head in range(first_head, last_head):
            queries = states + (head - first_head) * state * width
            q_at = q.address + (b * q.batch + head * q.head) * width
            factor[0] = scales[min(b, len(scales) - 1), head] * type(like)(LOG2_E)
            micro.turn(like, q_at, q.token, listed, depth, factor.ctypes.data, zeros, queries)
            sums = queries + TILE * depth * width
            fill(like, sums, TILE * (value_width + 1), like * 0)  # the totals too
            fill(like, sums + TILE * (value_width + 1) * width, TILE, lowest)
        if numbers is not None:
            lane_offsets(lists.query_order, tile * TILE, table.token, offsets)
        number = lists.tile_class[tile]
        first, last = lists.indptr[number], lists.indptr[number + 1]
        for begin in range(first, last, block):
            end = min(last, begin + block)
            n_keys = list_keys(
                like,
                lists,
                tile,
                begin,
                end,
                bias_at,
                tokens,
                entries,
                keys,
                places,
                masks,
                biases,
                both,
                counts,
            )
            for key_head in range(first_key_head, last_key_head):
                k_at = k.address + (b * k.batch + key_head * k.head) * width
                v_at = v.address + (b * v.batch + key_head * v.head) * width
                values, value_stride, value_rows = v_at, v.token, keys.ctypes.data
                if packed:
                    at = tokens.ctypes.data
                    micro.pack(like, v_at, v.token, at, n_keys, value_depth, packed_values, value_width)
                    values, value_stride, value_rows = packed_values, value_width, places.ctypes.data
                for head in range(key_head * shared, (key_head + 1) * shared):
                    queries = states + (head - first_head) * state * width
                    sums = queries + TILE * depth * width
                    totals = sums + TILE * value_width * width
                    maxima = totals + TILE * width
                    table_at = table.address + (b * table.batch + head * table.head) * width
                    for lane in range(TILE):
                        micro.store(like, before, lane, micro.load(like, maxima, lane))
                    for group in range(GROUPS):
                        # keys that two groups see meet them both at once
                        alike = both[group // 2]
                        results = scores + group % 2 * capacity * LANES * width
                        lanes = group * LANES * width
                        start, rest = group * capacity, group * capacity + alike
                        pairs = pairs_at(like, numbers, rows, begin, group, entries, offsets, table_at)
                        if group % 2 == 0 and alike > 0:
                            micro.scores_of_two(
                                like,
                                k_at,
                                k.token,
                                keys.ctypes.data + start * 4,
                                places.ctypes.data + start * 4,
                                alike,
                                queries + lanes * depth,
                                depth,
                                biases.ctypes.data + start * width,
                                masks.ctypes.data + start * 4,
                                capacity,
                                results,
                                maxima + lanes,
                                pairs,
                            )
                        count = counts[group]
                        if count == 0:
                            continue
                        micro.scores(
                            like,
                            k_at,
                            k.token,
                            keys.ctypes.data + rest * 4,
                            places.ctypes.data + rest * 4,
                            padded(count) - alike,
                            queries + lanes * depth,
                            depth,
                            biases.ctypes.data + rest * width,
                            masks.ctypes.data + rest * 4,
                            capacity,
                            results + alike * LANES * width,
                            maxima + lanes,
                            pairs,
                        )
                        if begin > first:
                            rescale(
                                like,
                                before + lanes,
                                maxima + lanes,
                                totals + lanes,
                                sums + lanes * value_width,
                                value_width,
                            )
                        micro.exponentials(like, results, padded(count), maxima + lanes, totals + lanes)
                        micro.gather(
                            like,
                            values,
                            value_stride,
                            value_rows + start * 4,
                            count,
                            results,
                            sums + lanes * value_width,
                            value_width,
                        )
        for head in range(first_head, last_head):
            sums = states + ((head - first_head) * state + TILE * depth) * width
            totals = sums + TILE * value_width * width
            maxima = totals + TILE * width
            out_at = out.address + (b * out.batch + head * out.head) * width
            lse_at = lse.address + (b * lse.batch + head * lse.head) * width
            for lane in range(TILE):
                token = lists.query_order[tile * TILE + lane]
                if token < 0:
                    continue
                maximum, total = micro.load(like, maxima, lane), micro.load(like, totals, lane)
                if total > 0 and abs(maximum) > -lowest / 2:
                    words[AT.extreme] = 1
                level, inverse[0] = weigh(like, maximum, total)
                micro.store(like, lse_at, token * lse.token, level)
                micro.scale_row(
                    like,
                    sums + lane * value_width * width,
                    inverse.ctypes.data,
                    value_depth,
                    out_at + token * out.token * width,
                )
    return max(1, buffer.size)  # an array is freed after its last mention, and all above goes by addresses


@kernel
def rescale(like, before, maxima, totals, sums, width):  # type: ignore[no-untyped-def]
    """Bring what was summed below old maxima below the new ones."""
    for lane in range(LANES):
        new, old = micro.load(like, maxima, lane), micro.load(like, before, lane)
        if new > old:
            factor = type(like)(np.exp2(old - new))
            micro.store(like, totals, lane, micro.load(like, totals, lane) * factor)
            for at in range(lane * width, (lane + 1) * width):
                micro.store(like, sums, at, micro.load(like, sums, at) * factor)


@kernel
def weigh(like, maximum, total):  # type: ignore[no-untyped-def]
    """Log-sum-exp and inverse weight of one query; −∞ and 0 where no key was visible, NaN where one was."""
    if total == 0:
        return type(like)(-np.inf), like * 0
    level = np.float64(maximum) + np.log2(np.float64(total))
    return type(like)(level * LN_2), type(like)(1) / total
