"""The forward pass: online softmax over the key lists of each group of query lanes."""

from __future__ import annotations

import numpy as np

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.compiled import kernel
from geoattn.backends.cpu.lists import (
    GROUPS,
    KEY_BLOCK,
    LANES,
    LOG2_E,
    TILE,
    aligned,
    fill,
    list_keys,
    load_rows,
    padded,
    turn,
)

#: below every score: maxima start here, since −∞ would make NaN of the difference to a hidden score
LOWEST = -1e30
LN_2 = 0.6931471805599453


@kernel
def forward(like, ticket, lists, order, block, q, k, v, bias, out, lse, sizes, scale):  # type: ignore[no-untyped-def]
    """Take work items until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the element type.
    ticket
        Address of the counter of taken items, shared by all threads.
    lists, order
        The plan, and its tiles in the order of work.
    block
        Keys that are worked on together.
    q, k, v, out
        (address, batch stride, token stride, head stride), in elements; channels are adjacent.
    bias
        (address or 0, batch stride).
    lse
        Like q, without channels.
    sizes
        (batch, heads, key heads, depth of q and k, depth of v, the latter in whole vectors).
    """
    batch, heads, key_heads, depth, value_depth, value_width = sizes
    shared = heads // key_heads
    items = batch * key_heads * len(order)
    capacity = block + KEY_BLOCK
    tokens = np.empty(capacity, np.int32)
    keys = np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    counts = np.empty(GROUPS + 1, np.int64)
    width = biases.itemsize
    keys_at, masks_at, biases_at = keys.ctypes.data, masks.ctypes.data, biases.ctypes.data
    # one buffer: queries by rows and by lanes, sums, scores and packed rows of a block, rows of lanes
    buffer = aligned(
        TILE * (2 * depth + value_width + 3) + capacity * LANES + block * (depth + value_width), like
    )
    rows = buffer.ctypes.data
    queries = rows + TILE * depth * width
    sums = queries + TILE * depth * width
    maxima = sums + TILE * value_width * width
    totals = maxima + TILE * width
    before = totals + TILE * width
    scores = before + TILE * width
    packed_values = scores + capacity * LANES * width
    packed_keys = packed_values + block * value_width * width
    fill(like, packed_values, block * value_width, like * 0)  # what lies beyond the depth stays 0
    while True:
        item = micro.take_ticket(ticket)
        if item >= items:
            break
        # neighboring tiles of one head follow each other: their keys are still in the cache
        tile = order[item % len(order)]
        key_head, b = item // len(order) % key_heads, item // (len(order) * key_heads)
        k_at = k[0] + (b * k[1] + key_head * k[3]) * width
        v_at = v[0] + (b * v[1] + key_head * v[3]) * width
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        number = lists.tile_class[tile]
        first, last = lists.indptr[number], lists.indptr[number + 1]
        listed = -1
        for head in range(key_head * shared, (key_head + 1) * shared):
            q_at = q[0] + (b * q[1] + head * q[3]) * width
            out_at = out[0] + (b * out[1] + head * out[3]) * width
            lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
            load_rows(
                like,
                lists.query_order,
                tile * TILE,
                q_at,
                q[2],
                depth,
                depth,
                type(like)(scale * LOG2_E),
                rows,
            )
            turn(like, rows, depth, depth, type(like)(1), queries)
            fill(like, sums, TILE * value_width, like * 0)
            fill(like, maxima, TILE, type(like)(LOWEST))
            fill(like, totals, TILE, like * 0)
            for begin in range(first, last, block):
                if listed != begin:  # short lists serve all heads, and keys stay packed
                    end = min(last, begin + block)
                    n_keys = list_keys(
                        like, lists, tile, begin, end, bias_at, tokens, keys, masks, biases, counts
                    )
                    listed, at = begin, tokens.ctypes.data
                    micro.pack(like, k_at, k[2], at, n_keys, depth, packed_keys, depth)
                    micro.pack(like, v_at, v[2], at, n_keys, value_depth, packed_values, value_width)
                for group in range(GROUPS):
                    count = counts[group]
                    if count == 0:
                        continue
                    lanes = group * LANES * width
                    place = group * capacity
                    for lane in range(LANES):
                        micro.store(like, before, lane, micro.load(like, maxima + lanes, lane))
                    micro.scores(
                        like,
                        packed_keys,
                        depth,
                        keys_at + place * 4,
                        padded(count),
                        queries + lanes * depth,
                        depth,
                        biases_at + place * width,
                        masks_at + place * 4,
                        scores,
                        maxima + lanes,
                    )
                    if begin > first:
                        rescale(
                            like,
                            before,
                            maxima + lanes,
                            totals + lanes,
                            sums + lanes * value_width,
                            value_width,
                        )
                    micro.exponentials(like, scores, padded(count), maxima + lanes, totals + lanes)
                    micro.gather(
                        like,
                        packed_values,
                        value_width,
                        keys_at + place * 4,
                        count,
                        scores,
                        sums + lanes * value_width,
                        value_width,
                    )
            for lane in range(TILE):
                token = lists.query_order[tile * TILE + lane]
                if token < 0:
                    continue
                level, inverse = weigh(like, micro.load(like, maxima, lane), micro.load(like, totals, lane))
                micro.store(like, lse_at, token * lse[2], level)
                for d in range(value_depth):
                    value = micro.load(like, sums, lane * value_width + d) * inverse
                    micro.store(like, out_at, token * out[2] + d, value if inverse > 0 else like * 0)


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
    """Log-sum-exp and inverse weight of one query; −∞ and 0 where no key was visible."""
    if total > 0:
        level = np.float64(maximum) + np.log2(np.float64(total))
        return type(like)(level * LN_2), type(like)(1) / total
    return type(like)(-np.inf), like * 0
