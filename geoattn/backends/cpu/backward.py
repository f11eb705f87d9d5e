"""The backward pass: scores are computed again, and each tile adds to the gradients of its keys.

With s the scores, P their probabilities and δ = out·dout − dlse for each query::

    dP = v·dout        dS = P (dP − δ)        db = Σ dS
    dv = Σ P dout      dk = scale Σ dS q      dq = scale Σ dS k

A tile gathers its keys into packed rows, and sums their gradients in packed rows beside them.
Threads take runs of neighboring query tiles of some key heads. A run adds to the gradients of keys
that no other run touches, and to a table of its own for the others, so that nothing races; afterwards
the tables are added up, run after run, so that sums do not depend on the threads.
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
)

#: keys whose run tables are added up at once
KEYS_AT_ONCE = 512
#: rows of a table that are asked of memory before their turn
AHEAD = 8
#: stands for the log-sum-exp −∞ of a query without keys: all its probabilities become 0
HIGHEST = 1e30


@kernel
def backward(  # type: ignore[no-untyped-def]
    like,
    ticket,
    lists,
    block,
    together,
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
    grad_k,
    grad_v,
    grad_bias,
    grad_scale,
    table,
    sizes,
    scales,
):
    """Take runs of tiles until none is left: all that one thread does.

    Parameters
    ----------
    like, ticket, lists, block, together, q, k, v, bias, out, lse, sizes, scales
        As in the forward pass.
    runs
        Tiles and keys of each run, :class:`geoattn.backends.cpu.schedule.Chunks`.
    grad_out, grad_lse, grad_q, grad_k, grad_v
        Like out, lse (address 0 for none), q, k and v.
    grad_bias
        Address of one number for each batch entry, key head and key: 0 at first, and unused where
        the table has no channels for the bias.
    grad_scale
        Like lse (address 0 for none): what each query adds to the gradient of its head's scale.
    table
        (address, channels of dk, of dv, of the bias), each rounded up to whole vectors or 0: rows
        of gradients, one per shared key of each run, for each batch entry and key head.
    """
    batch, heads, key_heads, depth, value_depth = sizes
    table_base, key_width, value_width, bias_width = table
    row = key_width + value_width + bias_width
    shared = heads // key_heads
    n_runs = len(runs.tiles) - 1
    n_rows = len(runs.keys)
    parts = (key_heads + together - 1) // together
    items = batch * parts * n_runs
    capacity = block + KEY_BLOCK
    tokens = np.empty(capacity, np.int32)
    keys = np.empty((GROUPS, capacity), np.int32)
    masks = np.empty((GROUPS, capacity), np.int32)
    biases = np.empty((GROUPS, capacity), type(like))
    both, counts = np.empty(GROUPS // 2, np.int64), np.empty(GROUPS, np.int64)
    slot_of_key = np.full(n_keys, -1, np.int32)
    lanes_of_tile = np.arange(TILE).astype(np.int32)
    to_base_two, one = np.full(1, type(like)(LOG2_E)), np.full(1, type(like)(1))
    factor = np.empty(1, type(like))
    width = biases.itemsize
    # one buffer: the state of each head, two matrices of two groups, packed rows and their gradients
    state = TILE * (2 * key_width + depth + value_width + value_depth + 2)
    buffer = aligned(
        together * shared * state + 4 * capacity * LANES + block * (key_width + value_depth + row), like
    )
    states = buffer.ctypes.data
    probabilities = states + together * shared * state * width
    score_gradients = probabilities + 2 * capacity * LANES * width
    packed_keys = score_gradients + 2 * capacity * LANES * width
    packed_gradients = packed_keys + block * key_width * width
    packed_values = packed_gradients + block * row * width
    fill(like, packed_keys, block * key_width, like * 0)  # what lies beyond the depth stays 0
    while True:
        item = micro.take_ticket(ticket)
        if item >= items:
            break
        run, part, b = item % n_runs, item // n_runs % parts, item // (n_runs * parts)
        first_key_head = part * together
        last_key_head = min(key_heads, first_key_head + together)
        first_head, last_head = first_key_head * shared, last_key_head * shared
        bias_at = bias[0] + b * bias[1] * width if bias[0] != 0 else 0
        first_row = runs.indptr[run]
        run_rows = runs.indptr[run + 1] - first_row
        for slot in range(run_rows):
            slot_of_key[runs.keys[first_row + slot]] = slot
        for key_head in range(first_key_head, last_key_head):
            own = table_base + ((b * key_heads + key_head) * n_rows + first_row) * row * width
            fill(like, own, run_rows * row, like * 0)
            grad_k_at = grad_k[0] + (b * grad_k[1] + key_head * grad_k[3]) * width
            grad_v_at = grad_v[0] + (b * grad_v[1] + key_head * grad_v[3]) * width
            for at in range(runs.own_indptr[run], runs.own_indptr[run + 1]):
                fill(like, grad_k_at + runs.own[at] * grad_k[2] * width, depth, like * 0)
                fill(like, grad_v_at + runs.own[at] * grad_v[2] * width, value_depth, like * 0)
        for tile in range(runs.tiles[run], runs.tiles[run + 1]):
            order, start = lists.query_order, tile * TILE
            number = lists.tile_class[tile]
            first, last = lists.indptr[number], lists.indptr[number + 1]
            for head in range(first_head, last_head):
                query_rows = states + (head - first_head) * state * width
                query_gradients = query_rows + TILE * key_width * width
                gradient_rows = query_gradients + TILE * key_width * width
                queries = gradient_rows + TILE * value_width * width
                gradients = queries + TILE * depth * width
                levels = gradients + TILE * value_depth * width
                delta = levels + TILE * width
                q_at = q[0] + (b * q[1] + head * q[3]) * width
                out_at = out[0] + (b * out[1] + head * out[3]) * width
                lse_at = lse[0] + (b * lse[1] + head * lse[3]) * width
                grad_at = grad_out[0] + (b * grad_out[1] + head * grad_out[3]) * width
                grad_lse_at = grad_lse[0] + (b * grad_lse[1] + head * grad_lse[3]) * width
                factor[0] = scales[min(b, len(scales) - 1), head]
                load_rows(like, order, start, q_at, q[2], depth, key_width, factor.ctypes.data, query_rows)
                load_rows(
                    like,
                    order,
                    start,
                    grad_at,
                    grad_out[2],
                    value_depth,
                    value_width,
                    one.ctypes.data,
                    gradient_rows,
                )
                turn_rows(like, query_rows, key_width, lanes_of_tile, depth, to_base_two.ctypes.data, queries)
                turn_rows(
                    like, gradient_rows, value_width, lanes_of_tile, value_depth, one.ctypes.data, gradients
                )
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
                end = min(last, begin + block)
                tile_keys = list_keys(
                    like, lists, tile, begin, end, bias_at, tokens, keys, masks, biases, both, counts
                )
                for key_head in range(first_key_head, last_key_head):
                    k_at = k[0] + (b * k[1] + key_head * k[3]) * width
                    v_at = v[0] + (b * v[1] + key_head * v[3]) * width
                    own = table_base + ((b * key_heads + key_head) * n_rows + first_row) * row * width
                    at = tokens.ctypes.data
                    micro.pack(like, k_at, k[2], at, tile_keys, depth, packed_keys, key_width)
                    micro.pack(like, v_at, v[2], at, tile_keys, value_depth, packed_values, value_depth)
                    fill(like, packed_gradients, tile_keys * row, like * 0)
                    for head in range(key_head * shared, (key_head + 1) * shared):
                        query_rows = states + (head - first_head) * state * width
                        query_gradients = query_rows + TILE * key_width * width
                        gradient_rows = query_gradients + TILE * key_width * width
                        queries = gradient_rows + TILE * value_width * width
                        gradients = queries + TILE * depth * width
                        levels = gradients + TILE * value_depth * width
                        delta = levels + TILE * width
                        for group in range(GROUPS):
                            # keys that two groups see meet them both at once
                            alike, count = both[group // 2], counts[group]
                            lanes, place = group * LANES * width, group * capacity
                            matrix = group % 2 * capacity * LANES * width
                            listed = keys.ctypes.data + place * 4
                            if group % 2 == 0 and alike > 0:
                                micro.probabilities_of_two(
                                    like,
                                    packed_keys,
                                    key_width,
                                    listed,
                                    alike,
                                    queries + lanes * depth,
                                    depth,
                                    biases.ctypes.data + place * width,
                                    masks.ctypes.data + place * 4,
                                    capacity,
                                    levels + lanes,
                                    probabilities,
                                )
                                micro.score_gradients_of_two(
                                    like,
                                    packed_values,
                                    value_depth,
                                    listed,
                                    alike,
                                    gradients + lanes * value_depth,
                                    value_depth,
                                    probabilities,
                                    capacity,
                                    delta + lanes,
                                    score_gradients,
                                )
                            rest = matrix + alike * LANES * width
                            micro.probabilities(
                                like,
                                packed_keys,
                                key_width,
                                listed + alike * 4,
                                padded(count) - alike,
                                queries + lanes * depth,
                                depth,
                                biases.ctypes.data + (place + alike) * width,
                                masks.ctypes.data + (place + alike) * 4,
                                capacity,
                                levels + lanes,
                                probabilities + rest,
                            )
                            micro.score_gradients(
                                like,
                                packed_values,
                                value_depth,
                                listed + alike * 4,
                                padded(count) - alike,
                                gradients + lanes * value_depth,
                                value_depth,
                                probabilities + rest,
                                capacity,
                                delta + lanes,
                                score_gradients + rest,
                            )
                            micro.gather(
                                like,
                                packed_keys,
                                key_width,
                                listed,
                                count,
                                score_gradients + matrix,
                                query_gradients + lanes * key_width,
                                key_width,
                            )
                            scatter(
                                like,
                                score_gradients + matrix,
                                padded(count),
                                query_rows + lanes * key_width,
                                key_width,
                                packed_gradients,
                                row,
                                listed,
                            )
                            scatter(
                                like,
                                probabilities + matrix,
                                padded(count),
                                gradient_rows + lanes * value_width,
                                value_width,
                                packed_gradients + key_width * width,
                                row,
                                listed,
                            )
                            if bias_width:
                                columns = packed_gradients + (key_width + value_width) * width
                                add_bias(like, score_gradients + matrix, count, keys, group, columns, row)
                    grad_k_at = grad_k[0] + (b * grad_k[1] + key_head * grad_k[3]) * width
                    grad_v_at = grad_v[0] + (b * grad_v[1] + key_head * grad_v[3]) * width
                    grad_bias_at = grad_bias + (b * key_heads + key_head) * n_keys * width
                    for at in range(tile_keys):
                        source, key = packed_gradients + at * row * width, tokens[at]
                        if at + AHEAD < tile_keys:
                            later = tokens[at + AHEAD]
                            micro.fetch(like, grad_k_at + later * grad_k[2] * width, depth)
                            micro.fetch(like, grad_v_at + later * grad_v[2] * width, value_depth)
                        if slot_of_key[key] >= 0:
                            micro.add_row(like, source, row, own + slot_of_key[key] * row * width)
                            continue
                        micro.add_row(like, source, depth, grad_k_at + key * grad_k[2] * width)
                        source += key_width * width
                        micro.add_row(like, source, value_depth, grad_v_at + key * grad_v[2] * width)
                        if bias_width:
                            micro.add_row(like, source + value_width * width, 1, grad_bias_at + key * width)
            for head in range(first_head, last_head):
                query_gradients = states + ((head - first_head) * state + TILE * key_width) * width
                grad_q_at = grad_q[0] + (b * grad_q[1] + head * grad_q[3]) * width
                factor[0] = scales[min(b, len(scales) - 1), head]
                for lane in range(TILE):
                    token = order[start + lane]
                    if token < 0:
                        continue
                    unscaled = query_gradients + lane * key_width * width
                    target = grad_q_at + token * grad_q[2] * width
                    micro.scale_row(like, unscaled, factor.ctypes.data, depth, target)
                    if grad_scale[0] != 0:
                        own = q[0] + (b * q[1] + head * q[3] + token * q[2]) * width
                        target = grad_scale[0] + (b * grad_scale[1] + head * grad_scale[3]) * width
                        micro.dot(like, own, unscaled, depth, target + token * grad_scale[2] * width)
    return buffer.size  # an array is freed after its last mention, and all above goes by addresses


@kernel
def turn_rows(like, rows, width, lanes, depth, factor, by_lanes):  # type: ignore[no-untyped-def]
    """The micro-kernel ``turn`` for rows that lie side by side."""
    micro.turn(like, rows, width, lanes.ctypes.data, depth, factor, rows, by_lanes)


@kernel
def scatter(like, weights, count, rows, row_width, base, stride, slots):  # type: ignore[no-untyped-def]
    """The micro-kernel of that name, compiled once for its two uses."""
    micro.scatter(like, weights, count, rows, row_width, base, stride, slots, row_width)


@kernel
def load_levels(like, order, start, out, lse, grad_lse, gradients, depth, levels, delta):  # type: ignore[no-untyped-def]
    """Log-sum-exps in units of log 2, and δ = out·dout − dlse, of a tile.

    ``out``, ``lse``, ``grad_lse`` and ``gradients`` are (address, row stride).
    """
    size = np.empty(0, type(like)).itemsize
    for lane in range(TILE):
        if order[start + lane] >= 0:
            micro.fetch(like, out[0] + order[start + lane] * out[1] * size, depth)
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
        gradient = gradients[0] + lane * gradients[1] * size
        micro.dot(like, out[0] + token * out[1] * size, gradient, depth, delta + lane * size)
        if grad_lse[0] != 0:
            total = micro.load(like, delta, lane) - micro.load(like, grad_lse[0], token * grad_lse[1])
            micro.store(like, delta, lane, total)


@kernel
def add_bias(like, score_gradients, count, keys, group, base, stride):  # type: ignore[no-untyped-def]
    """Add the score gradients of all lanes to the bias column of each key's row."""
    for at in range(count):
        total = like * 0
        for lane in range(LANES):
            total += micro.load(like, score_gradients, at * LANES + lane)
        column = keys[group, at] * stride
        micro.store(like, base, column, micro.load(like, base, column) + total)


@kernel
def add_runs(like, ticket, runs, n_keys, grad_k, grad_v, table, sizes):  # type: ignore[no-untyped-def]
    """Sum the tables of all runs into dk and dv of the shared keys, a range of keys at a time."""
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
        for run in range(len(runs.tiles) - 1):
            low, high = runs.indptr[run], runs.indptr[run + 1]
            shared = runs.keys[low:high]
            base = table_base + ((b * key_heads + key_head) * n_rows + low) * row * width
            for slot in range(np.searchsorted(shared, first), np.searchsorted(shared, last)):
                k_row = k_base + shared[slot] * grad_k[2] * width
                v_row = v_base + shared[slot] * grad_v[2] * width
                if runs.begins[low + slot]:
                    fill(like, k_row, depth, like * 0)
                    fill(like, v_row, value_depth, like * 0)
                source = base + slot * row * width
                micro.add_row(like, source, depth, k_row)
                micro.add_row(like, source + key_width * width, value_depth, v_row)
