"""The backward pass: scores are computed again, and each tile adds to the gradients of its keys.

With s the scores, P their probabilities and δ = out·dout − dlse for each query::

    dP = v·dout        dS = P (dP − δ)        db = Σ dS
    dv = Σ P dout      dk = scale Σ dS q      dq = scale Σ dS k

Threads take runs of neighboring query tiles of one key head. Each run owns a table of gradients of
just the keys that it touches, so that nothing races and the table stays in cache; afterwards the
tables are added up, run after run, so that sums do not depend on the threads.
"""

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

#: keys whose run tables are added up at once
KEYS_AT_ONCE = 512
#: stands for the log-sum-exp −∞ of a query without keys: all its probabilities become 0
HIGHEST = 1e30


@kernel
def backward(  # type: ignore[no-untyped-def]
    like,
    ticket,
    lists,
    block,
    runs,
    n_keys,
    q,
    k,
    v,
    bias,
    out,
    lse,
    grad_out,
    grad_lse,
    grad_q,
    table,
    sizes,
    scale,
):
    """Take runs of tiles until none is left: all that one thread does.

    Parameters
    ----------
    like, ticket, lists, block, q, k, v, bias, out, lse, sizes, scale
        As in the forward pass.
    runs
        Tiles and keys of each run, :class:`geoattn.backends.cpu.schedule.Chunks`.
    grad_out, grad_lse, grad_q
        Like out, lse (address 0 for none) and q.
    table
        (address, channels of dk, of dv, of the bias), each rounded up to whole vectors or 0: rows
        of gradients, one per key of each run, for each batch entry and key head.
    """
    batch, heads, key_heads, depth, value_depth = sizes
    table_base, key_width, value_width, bias_width = table
    row = key_width + value_width + bias_width
    n_runs = len(runs.tiles) - 1
    n_rows = len(runs.keys)
    items = batch * key_heads * n_runs
    capacity = block + KEY_BLOCK
    tokens = np.empty(capacity, np.int32)
    keys = np.empty((GROUPS, capacity), np.int32)
    slots = np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    counts = np.empty(GROUPS + 1, np.int64)
    slot_of_key = np.empty(n_keys, np.int32)
    width = biases.itemsize
    keys_at, slots_at = keys.ctypes.data, slots.ctypes.data
    masks_at, biases_at = masks.ctypes.data, biases.ctypes.data
    # one buffer: operands of a tile by rows and by lanes, rows of lanes, a block of scores and of keys
    buffer = aligned(
        TILE * (2 * key_width + depth + value_width + value_depth + 2)
        + 2 * capacity * LANES
        + block * (key_width + value_depth),
        like,
    )
    query_rows = buffer.ctypes.data
    query_gradients = query_rows + TILE * key_width * width
    gradient_rows = query_gradients + TILE * key_width * width
    queries = gradient_rows + TILE * value_width * width
    gradients = queries + TILE * depth * width
    levels = gradients + TILE * value_depth * width
    delta = levels + TILE * width
    probabilities = delta + TILE * width
    score_gradients = probabilities + capacity * LANES * width
    packed_keys = score_gradients + capacity * LANES * width
    packed_values = packed_keys + block * key_width * width
    fill(like, packed_keys, block * key_width, like * 0)  # what lies beyond the depth stays 0
    while True:
        item = micro.take_ticket(ticket)
        if item >= items:
            break
        run, key_head, b = item % n_runs, item // n_runs % key_heads, item // (n_runs * key_heads)
        first_row = runs.indptr[run]
        for slot in range(runs.indptr[run + 1] - first_row):
            slot_of_key[runs.keys[first_row + slot]] = slot
        own = table_base + ((b * key_heads + key_head) * n_rows + first_row) * row * width
        fill(like, own, (runs.indptr[run + 1] - first_row) * row, like * 0)
        k_at = k[0] + (b * k[1] + key_head * k[3]) * width
        v_at = v[0] + (b * v[1] + key_head * v[3]) * width
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        for tile in range(runs.tiles[run], runs.tiles[run + 1]):
            order, start = lists.query_order, tile * TILE
            number = lists.tile_class[tile]
            first, last = lists.indptr[number], lists.indptr[number + 1]
            listed, count = -1, 0
            for head in range(key_head * (heads // key_heads), (key_head + 1) * (heads // key_heads)):
                q_at = q[0] + (b * q[1] + head * q[3]) * width
                out_at = out[0] + (b * out[1] + head * out[3]) * width
                lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
                grad_at = grad_out[0] + (b * grad_out[1] + head * grad_out[3]) * width
                grad_lse_at = grad_lse[0] + (b * grad_lse[1] + head * grad_lse[3]) * width
                grad_q_at = grad_q[0] + (b * grad_q[1] + head * grad_q[3]) * width
                one = type(like)(1)
                load_rows(like, order, start, q_at, q[2], depth, key_width, type(like)(scale), query_rows)
                load_rows(
                    like, order, start, grad_at, grad_out[2], value_depth, value_width, one, gradient_rows
                )
                turn(like, query_rows, key_width, depth, type(like)(LOG2_E), queries)
                turn(like, gradient_rows, value_width, value_depth, one, gradients)
                load_levels(
                    like,
                    order,
                    start,
                    (out_at, out[2]),
                    (lse_at, lse[2]),
                    (grad_lse_at if grad_lse[0] != 0 else 0, grad_lse[2]),
                    (gradient_rows, value_width),
                    value_depth,
                    levels,
                    delta,
                )
                fill(like, query_gradients, TILE * key_width, like * 0)
                for begin in range(first, last, block):
                    if listed != begin:  # short lists serve all heads, and keys stay packed
                        end = min(last, begin + block)
                        count = list_keys(
                            like, lists, tile, begin, end, bias_at, tokens, keys, masks, biases, counts
                        )
                        for group in range(GROUPS):
                            for at in range(padded(counts[group])):
                                slots[group, at] = slot_of_key[tokens[keys[group, at]]]
                        micro.pack(like, k_at, k[2], tokens.ctypes.data, count, depth, packed_keys, key_width)
                        micro.pack(
                            like,
                            v_at,
                            v[2],
                            tokens.ctypes.data,
                            count,
                            value_depth,
                            packed_values,
                            value_depth,
                        )
                        listed = begin
                    for group in range(GROUPS):
                        count = counts[group]
                        lanes = group * LANES * width
                        place = group * capacity
                        listed_keys, listed_slots = keys_at + place * 4, slots_at + place * 4
                        micro.probabilities(
                            like,
                            packed_keys,
                            key_width,
                            listed_keys,
                            padded(count),
                            queries + lanes * depth,
                            depth,
                            biases_at + place * width,
                            masks_at + place * 4,
                            levels + lanes,
                            probabilities,
                        )
                        micro.score_gradients(
                            like,
                            packed_values,
                            value_depth,
                            listed_keys,
                            padded(count),
                            gradients + lanes * value_depth,
                            value_depth,
                            probabilities,
                            delta + lanes,
                            score_gradients,
                        )
                        micro.gather(
                            like,
                            packed_keys,
                            key_width,
                            listed_keys,
                            count,
                            score_gradients,
                            query_gradients + lanes * key_width,
                            key_width,
                        )
                        scatter(
                            like,
                            score_gradients,
                            padded(count),
                            query_rows + lanes * key_width,
                            key_width,
                            own,
                            row,
                            listed_slots,
                        )
                        scatter(
                            like,
                            probabilities,
                            padded(count),
                            gradient_rows + lanes * value_width,
                            value_width,
                            own + key_width * width,
                            row,
                            listed_slots,
                        )
                        if bias_width:
                            columns = own + (key_width + value_width) * width
                            add_bias(like, score_gradients, count, slots, group, columns, row)
                for lane in range(TILE):
                    token = order[start + lane]
                    if token >= 0:
                        for d in range(depth):
                            value = micro.load(like, query_gradients, lane * key_width + d) * type(like)(
                                scale
                            )
                            micro.store(like, grad_q_at, token * grad_q[2] + d, value)


@kernel
def scatter(like, weights, count, rows, row_width, base, stride, slots):  # type: ignore[no-untyped-def]
    """The micro-kernel of that name, compiled once for its two uses."""
    micro.scatter(like, weights, count, rows, row_width, base, stride, slots, row_width)


@kernel
def load_levels(like, order, start, out, lse, grad_lse, gradients, depth, levels, delta):  # type: ignore[no-untyped-def]
    """Log-sum-exps in units of log 2, and δ = out·dout − dlse, of a tile.

    ``out``, ``lse``, ``grad_lse`` and ``gradients`` are (address, row stride).
    """
    for lane in range(TILE):
        token = order[start + lane]
        micro.store(like, levels, lane, type(like)(HIGHEST))
        micro.store(like, delta, lane, like * 0)
        if token < 0:
            continue
        level = micro.load(like, lse[0], token * lse[1])
        if level == -np.inf:
            continue
        micro.store(like, levels, lane, level * type(like)(LOG2_E))
        total = like * 0
        for d in range(depth):
            value = micro.load(like, out[0], token * out[1] + d)
            total += value * micro.load(like, gradients[0], lane * gradients[1] + d)
        if grad_lse[0] != 0:
            total -= micro.load(like, grad_lse[0], token * grad_lse[1])
        micro.store(like, delta, lane, total)


@kernel
def add_bias(like, score_gradients, count, slots, group, base, stride):  # type: ignore[no-untyped-def]
    """Add the score gradients of all lanes to the bias column of each key's row."""
    for at in range(count):
        total = like * 0
        for lane in range(LANES):
            total += micro.load(like, score_gradients, at * LANES + lane)
        column = slots[group, at] * stride
        micro.store(like, base, column, micro.load(like, base, column) + total)


@kernel
def add_runs(like, ticket, runs, n_keys, grad_k, grad_v, table, sizes):  # type: ignore[no-untyped-def]
    """Sum the tables of all runs into dk and dv, a range of keys at a time."""
    batch, _, key_heads, depth, value_depth = sizes
    table_base, key_width, value_width, bias_width = table
    row = key_width + value_width + bias_width
    width = np.empty(0, type(like)).itemsize
    n_rows = len(runs.keys)
    ranges = (n_keys + KEYS_AT_ONCE - 1) // KEYS_AT_ONCE
    items = batch * key_heads * ranges
    while True:
        item = micro.take_ticket(ticket)
        if item >= items:
            break
        first = item % ranges * KEYS_AT_ONCE
        last = min(n_keys, first + KEYS_AT_ONCE)
        key_head, b = item // ranges % key_heads, item // (ranges * key_heads)
        k_base = grad_k[0] + (b * grad_k[1] + key_head * grad_k[3]) * width
        v_base = grad_v[0] + (b * grad_v[1] + key_head * grad_v[3]) * width
        for key in range(first, last):
            for d in range(depth):
                micro.store(like, k_base, key * grad_k[2] + d, like * 0)
            for d in range(value_depth):
                micro.store(like, v_base, key * grad_v[2] + d, like * 0)
        for run in range(len(runs.tiles) - 1):
            low, high = runs.indptr[run], runs.indptr[run + 1]
            own = runs.keys[low:high]
            base = table_base + ((b * key_heads + key_head) * n_rows + low) * row * width
            for slot in range(np.searchsorted(own, first), np.searchsorted(own, last)):
                key = own[slot]
                add_row(like, base + slot * row * width, k_base, key * grad_k[2], depth)
                add_row(like, base + (slot * row + key_width) * width, v_base, key * grad_v[2], value_depth)


@kernel
def add_row(like, source, base, offset, depth):  # type: ignore[no-untyped-def]
    for d in range(depth):
        value = micro.load(like, base, offset + d) + micro.load(like, source, d)
        micro.store(like, base, offset + d, value)
