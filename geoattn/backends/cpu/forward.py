"""The forward pass: online softmax over the key lists of each group of query lanes."""

from __future__ import annotations

import numpy as np

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.compiled import kernel
from geoattn.backends.cpu.lists import (
    BLOCK,
    GROUPS,
    KEY_BLOCK,
    LANES,
    LOG2_E,
    TILE,
    aligned,
    fill,
    list_keys,
    load_lanes,
    padded,
)

#: below every score: maxima start here, since −∞ would make NaN of the difference to a hidden score
LOWEST = -1e30
LN_2 = 0.6931471805599453


@kernel
def forward(like, ticket, lists, order, longest, q, k, v, bias, out, lse, sizes, heads_at_once, scale):  # type: ignore[no-untyped-def]
    """Take work items until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the element type.
    ticket
        Address of the counter of taken items, shared by all threads.
    lists, order, longest
        The plan, its tiles in the order of work, the length of the longest list.
    q, k, v, out
        (address, batch stride, token stride, head stride), in elements; channels are adjacent.
    bias
        (address or 0, batch stride).
    lse
        Like q, without channels.
    sizes
        (batch, heads, key heads, depth of q and k, depth of v).
    """
    batch, heads, key_heads, depth, value_depth = sizes
    head_blocks = (heads + heads_at_once - 1) // heads_at_once
    items = len(order) * batch * head_blocks
    capacity = longest + KEY_BLOCK
    keys = np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    counts = np.empty(GROUPS, np.int64)
    width = biases.itemsize
    keys_at, masks_at, biases_at = keys.ctypes.data, masks.ctypes.data, biases.ctypes.data
    # one buffer: scaled queries, sums of values, scores of a block, and three rows of lanes
    block = min(BLOCK, padded(longest))
    buffer = aligned((depth + value_depth + block + 3) * LANES, like)
    queries = buffer.ctypes.data
    sums = queries + depth * LANES * width
    scores = sums + value_depth * LANES * width
    maxima = scores + block * LANES * width
    before = maxima + LANES * width
    totals = before + LANES * width
    while True:
        item = micro.take_ticket(ticket)
        if item >= items:
            break
        tile = order[item // (batch * head_blocks)]
        b = item // head_blocks % batch
        first_head = item % head_blocks * heads_at_once
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        list_keys(like, lists, tile, bias_at, keys, masks, biases, counts)
        for head in range(first_head, min(heads, first_head + heads_at_once)):
            key_head = head // (heads // key_heads)
            q_at = q[0] + (b * q[1] + head * q[3]) * width
            k_at = k[0] + (b * k[1] + key_head * k[3]) * width
            v_at = v[0] + (b * v[1] + key_head * v[3]) * width
            out_at = out[0] + (b * out[1] + head * out[3]) * width
            lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
            for group in range(GROUPS):
                start = tile * TILE + group * LANES
                load_lanes(
                    like, lists.query_order, start, q_at, q[2], depth, type(like)(scale * LOG2_E), queries
                )
                fill(like, maxima, LANES, type(like)(LOWEST))
                fill(like, totals, LANES, like * 0)
                fill(like, sums, value_depth * LANES, like * 0)
                for begin in range(0, counts[group], BLOCK):
                    count = padded(min(BLOCK, counts[group] - begin))
                    place = group * capacity + begin
                    listed = keys_at + place * 4
                    for lane in range(LANES):
                        micro.store(like, before, lane, micro.load(like, maxima, lane))
                    micro.scores(
                        like,
                        k_at,
                        k[2],
                        listed,
                        count,
                        queries,
                        depth,
                        biases_at + place * width,
                        masks_at + place * 4,
                        scores,
                        maxima,
                    )
                    if begin > 0:
                        rescale(like, before, maxima, totals, sums, value_depth)
                    micro.exponentials(like, scores, count, maxima, totals)
                    micro.gather(like, v_at, v[2], listed, count, scores, sums, value_depth)
                finish(
                    like,
                    lists.query_order,
                    start,
                    maxima,
                    totals,
                    sums,
                    value_depth,
                    out_at,
                    out[2],
                    lse_at,
                    lse[2],
                )


@kernel
def rescale(like, before, maxima, totals, sums, depth):  # type: ignore[no-untyped-def]
    """Bring what was summed below old maxima below the new ones."""
    for lane in range(LANES):
        new, old = micro.load(like, maxima, lane), micro.load(like, before, lane)
        if new > old:
            factor = type(like)(np.exp2(old - new))
            micro.store(like, totals, lane, micro.load(like, totals, lane) * factor)
            for at in range(lane, depth * LANES, LANES):
                micro.store(like, sums, at, micro.load(like, sums, at) * factor)


@kernel
def finish(like, order, start, maxima, totals, sums, depth, out, out_stride, lse, lse_stride):  # type: ignore[no-untyped-def]
    """Write the outputs and log-sum-exps of a group: 0 and −∞ where no key was visible."""
    for lane in range(LANES):
        token = order[start + lane]
        if token < 0:
            continue
        total = micro.load(like, totals, lane)
        if total > 0:
            inverse = type(like)(1) / total
            for d in range(depth):
                value = micro.load(like, sums, d * LANES + lane) * inverse
                micro.store(like, out, token * out_stride + d, value)
            level = np.float64(micro.load(like, maxima, lane)) + np.log2(np.float64(total))
            micro.store(like, lse, token * lse_stride, type(like)(level * LN_2))
        else:
            for d in range(depth):
                micro.store(like, out, token * out_stride + d, like * 0)
            micro.store(like, lse, token * lse_stride, type(like)(-np.inf))
