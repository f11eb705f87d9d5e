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
    BLOCK,
    GROUPS,
    KEY_BLOCK,
    LANES,
    LOG2_E,
    TILE,
    aligned,
    fill,
    list_keys,
    padded,
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
    longest,
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
    like, ticket, lists, longest, q, k, v, bias, out, lse, sizes, scale
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
    capacity = longest + KEY_BLOCK
    keys = np.empty((GROUPS, capacity), np.int32)
    slots = np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    counts = np.empty(GROUPS, np.int64)
    slot_of_key = np.empty(n_keys, np.int32)
    width = biases.itemsize
    keys_at, slots_at = keys.ctypes.data, slots.ctypes.data
    masks_at, biases_at = masks.ctypes.data, biases.ctypes.data
    # one buffer of rows of lanes: two blocks of scores, operands by lanes, operands by rows
    block = min(BLOCK, padded(longest))
    buffer = aligned((2 * block + 2 * depth + value_depth + key_width + value_width + 2) * LANES, like)
    probabilities = buffer.ctypes.data
    score_gradients = probabilities + block * LANES * width
    queries = score_gradients + block * LANES * width
    query_gradients = queries + depth * LANES * width
    gradients = query_gradients + depth * LANES * width
    query_rows = gradients + value_depth * LANES * width
    gradient_rows = query_rows + key_width * LANES * width
    levels = gradient_rows + value_width * LANES * width
    delta = levels + LANES * width
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
            list_keys(like, lists, tile, bias_at, keys, masks, biases, counts)
            for group in range(GROUPS):
                for at in range(counts[group]):
                    slots[group, at] = slot_of_key[keys[group, at]]
            for head in range(key_head * (heads // key_heads), (key_head + 1) * (heads // key_heads)):
                q_at = q[0] + (b * q[1] + head * q[3]) * width
                out_at = out[0] + (b * out[1] + head * out[3]) * width
                lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
                grad_at = grad_out[0] + (b * grad_out[1] + head * grad_out[3]) * width
                grad_lse_at = grad_lse[0] + (b * grad_lse[1] + head * grad_lse[3]) * width
                grad_q_at = grad_q[0] + (b * grad_q[1] + head * grad_q[3]) * width
                for group in range(GROUPS):
                    start = tile * TILE + group * LANES
                    order = lists.query_order
                    load_rows(like, order, start, q_at, q[2], depth, key_width, type(like)(scale), query_rows)
                    load_rows(
                        like,
                        order,
                        start,
                        grad_at,
                        grad_out[2],
                        value_depth,
                        value_width,
                        type(like)(1),
                        gradient_rows,
                    )
                    turn(like, query_rows, key_width, depth, type(like)(LOG2_E), queries)
                    turn(like, gradient_rows, value_width, value_depth, type(like)(1), gradients)
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
                    fill(like, query_gradients, depth * LANES, like * 0)
                    for begin in range(0, counts[group], BLOCK):
                        count = min(BLOCK, counts[group] - begin)
                        place = group * capacity + begin
                        listed, listed_slots = keys_at + place * 4, slots_at + place * 4
                        micro.probabilities(
                            like,
                            k_at,
                            k[2],
                            listed,
                            padded(count),
                            queries,
                            depth,
                            biases_at + place * width,
                            masks_at + place * 4,
                            levels,
                            probabilities,
                        )
                        micro.score_gradients(
                            like,
                            v_at,
                            v[2],
                            listed,
                            padded(count),
                            gradients,
                            value_depth,
                            probabilities,
                            delta,
                            score_gradients,
                        )
                        micro.gather(like, k_at, k[2], listed, count, score_gradients, query_gradients, depth)
                        scatter(like, score_gradients, count, query_rows, key_width, own, row, listed_slots)
                        scatter(
                            like,
                            probabilities,
                            count,
                            gradient_rows,
                            value_width,
                            own + key_width * width,
                            row,
                            listed_slots,
                        )
                        if bias_width:
                            columns = own + (key_width + value_width) * width
                            add_bias(like, score_gradients, count, slots, place, columns, row)
                    store_rows(
                        like, order, start, query_gradients, depth, type(like)(scale), grad_q_at, grad_q[2]
                    )


@kernel
def scatter(like, weights, count, rows, row_width, base, stride, slots):  # type: ignore[no-untyped-def]
    """The micro-kernel of that name, compiled once for its two uses."""
    micro.scatter(like, weights, count, rows, row_width, base, stride, slots, row_width)


@kernel
def load_rows(like, order, start, base, stride, depth, width, factor, rows):  # type: ignore[no-untyped-def]
    """rows[l, 0:width] = factor * x[order[start + l]], 0 beyond depth and for padding."""
    for lane in range(LANES):
        token = order[start + lane]
        seen = depth if token >= 0 else 0
        for d in range(seen):
            micro.store(like, rows, lane * width + d, micro.load(like, base, token * stride + d) * factor)
        for d in range(seen, width):
            micro.store(like, rows, lane * width + d, like * 0)


@kernel
def turn(like, rows, width, depth, factor, by_lanes):  # type: ignore[no-untyped-def]
    """by_lanes[d, l] = factor * rows[l, d]."""
    for lane in range(LANES):
        for d in range(depth):
            micro.store(like, by_lanes, d * LANES + lane, micro.load(like, rows, lane * width + d) * factor)


@kernel
def store_rows(like, order, start, by_lanes, depth, factor, base, stride):  # type: ignore[no-untyped-def]
    """x[order[start + l], d] = factor * by_lanes[d, l], padding left out."""
    for lane in range(LANES):
        token = order[start + lane]
        if token >= 0:
            for d in range(depth):
                value = micro.load(like, by_lanes, d * LANES + lane) * factor
                micro.store(like, base, token * stride + d, value)


@kernel
def load_levels(like, order, start, out, lse, grad_lse, gradients, depth, levels, delta):  # type: ignore[no-untyped-def]
    """Log-sum-exps in units of log 2, and δ = out·dout − dlse, of the lanes of one group.

    ``out``, ``lse``, ``grad_lse`` and ``gradients`` are (address, row stride).
    """
    for lane in range(LANES):
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
def add_bias(like, score_gradients, count, slots, place, base, stride):  # type: ignore[no-untyped-def]
    """Add the score gradients of all lanes to the bias column of each key's row."""
    group, first = place // slots.shape[1], place % slots.shape[1]
    for at in range(count):
        total = like * 0
        for lane in range(LANES):
            total += micro.load(like, score_gradients, at * LANES + lane)
        column = slots[group, first + at] * stride
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
