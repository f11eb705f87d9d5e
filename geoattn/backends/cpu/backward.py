"""The backward pass: scores are computed again, and each tile adds to the gradients of its keys.

With s the scores, P their probabilities and δ = out·dout − dlse for each query::

    dP = v·dout        dS = P (dP − δ)        db = Σ dS
    dv = Σ P dout      dk = scale Σ dS q      dq = scale Σ dS k

A tile sums the gradients of its keys in packed rows.
Threads take runs of neighboring query tiles of some key heads. A run adds to the gradients of keys
that no other run touches, and to a table of its own for the others, so that nothing races; afterwards
the tables are added up, run after run, so that sums do not depend on the threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from geoattn.backends.cpu import memory, micro, rows
from geoattn.backends.cpu.blocks import (
    AT,
    listed_at,
    plan_at,
    room_at,
    runs_at,
    scales_at,
    sizes_at,
    table_at,
    view_at,
)
from geoattn.backends.cpu.compiled import kernel, task
from geoattn.backends.cpu.emitted import LANES, TILE
from geoattn.backends.cpu.lists import (
    LOG2_E,
    lane_offsets,
    list_keys,
    load_rows,
    own_memory,
    padded,
    pairs_at,
    rows_at,
    state_of,
)
from geoattn.backends.cpu.memory import flag_at, int_at, put_flag, put_int, word_at
from geoattn.backends.cpu.room import GROUPS

#: keys whose run tables are added up at once
KEYS_AT_ONCE = 512
#: rows of a table that are asked of memory before their turn
AHEAD = 8
#: stands for the log-sum-exp −∞ of a query without keys: all its probabilities become 0
HIGHEST = 1e30


class Item(NamedTuple):
    """A run, for some key heads of a batch entry."""

    run: int
    batch: int
    first_key_head: int
    last_key_head: int
    first_head: int
    last_head: int


class Keys(NamedTuple):
    """Addresses of the rows of k and v in one head; and of those of k in whole vectors, with their stride."""

    k: int
    v: int
    whole: int
    stride: int
    #: which of the latter each group of lanes sees: address of int32 lists ``[GROUPS, capacity]``
    lists: int


@task
def backward(like, related, in_rows, learned, learned_in_rows, block):  # type: ignore[no-untyped-def]
    """Take runs of tiles until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the type that is computed in.
    related
        None without a relation; else any number.
    in_rows
        None where biases are looked up in a table by number; else any number.
    learned, learned_in_rows
        The same where the table needs a gradient; None where it does not.
    block
        Its address, see :mod:`geoattn.backends.cpu.blocks`.
    """
    plan, runs, sizes = plan_at(block, AT.plan), runs_at(block, AT.runs), sizes_at(block, AT.sizes)
    most, together = word_at(block, AT.block), word_at(block, AT.together)
    start = own_memory(block)
    room, listed = room_at(block, AT.room, start), listed_at(block, AT.listed, start)
    numbers, added = word_at(block, AT.numbers), word_at(block, AT.added)
    furnish(like, block, start)
    shared, parts = sizes.heads // sizes.key_heads, (sizes.key_heads + together - 1) // together
    while True:
        number = memory.take_ticket(block + 8 * AT.items)
        if number >= sizes.batch * parts * runs.n_runs:
            break
        batch, part = number // (runs.n_runs * parts), number // runs.n_runs % parts
        low, high = part * together, min(sizes.key_heads, (part + 1) * together)
        item = Item(number % runs.n_runs, batch, low, high, low * shared, high * shared)
        begin(like, block, start, item)
        bias = word_at(block, AT.bias)
        if bias != 0:
            bias += batch * word_at(block, AT.bias + 1) * memory.size_of(like)
        for tile in range(word_at(runs.tiles, item.run), word_at(runs.tiles, item.run + 1)):
            if related is not None:
                stride, own = view_at(block, AT.pair_bias).token, view_at(block, AT.grad_pair_bias).token
                lane_offsets(plan.query_order, tile * TILE, stride, room.offsets)
                lane_offsets(plan.query_order, tile * TILE, own, room.gradient_offsets)
            for head in range(item.first_head, item.last_head):
                load(like, block, start, item, head, tile)
            label = int_at(plan.tile_class, tile)
            put_flag(room.touched, label, 1)
            end = word_at(plan.indptr, label + 1)
            for first in range(word_at(plan.indptr, label), end, most):
                last = min(end, first + most)
                n_keys = list_keys(like, plan, tile, first, last, bias, listed, word_at(block, AT.capacity))
                for head in range(item.first_head, item.last_head):
                    key_head = head // shared
                    if head % shared == 0:
                        of_keys = begin_keys(like, block, start, batch, key_head, n_keys)
                    state = state_of(block, room, head - item.first_head)
                    biases = rows_at(like, view_at(block, AT.pair_bias), batch, head)
                    gradients = pair_gradients_at(like, block, item, head)
                    if learned_in_rows is not None:
                        gradients = rows_of_pairs(block, room, head - item.first_head)
                    for group in range(GROUPS):
                        pairs = pairs_at(
                            like,
                            related,
                            in_rows,
                            numbers,
                            first,
                            group,
                            listed.entries,
                            room.offsets,
                            biases,
                        )
                        score(like, block, start, state, group, of_keys, pairs)
                        pairs = pairs_at(
                            like,
                            learned,
                            learned_in_rows,
                            added,
                            first,
                            group,
                            listed.entries,
                            room.gradient_offsets,
                            gradients,
                        )
                        collect(like, block, start, state, group, of_keys, pairs)
                    if head % shared == shared - 1:
                        spread(like, block, start, batch, key_head, item.run, n_keys)
            for head in range(item.first_head, item.last_head):
                store(like, block, start, item, head, tile)
        if learned_in_rows is not None:
            for head in range(item.first_head, item.last_head):
                source = rows_of_pairs(block, room, head - item.first_head)
                add_rows(like, block, room, source, pair_gradients_at(like, block, item, head))
        for label in range(plan.classes):
            put_flag(room.touched, label, 0)


@kernel
def furnish(like, block, start):  # type: ignore[no-untyped-def]
    """Write what the memory of a thread holds from the first."""
    room, most, width = room_at(block, AT.room, start), word_at(block, AT.block), memory.size_of(like)
    # what lies beyond the depth stays 0
    memory.fill(like, room.packed, most * table_at(block, AT.table).packed_width, like * 0)
    sizes = sizes_at(block, AT.sizes)
    heads = word_at(block, AT.together) * (sizes.heads // sizes.key_heads)
    memory.fill(like, room.pair_gradients, heads * word_at(block, AT.pair_gradients_size) // width, like * 0)
    memory.store(like, room.to_base_two, 0, type(like)(LOG2_E))
    memory.store(like, room.one, 0, type(like)(1))
    for key in range(word_at(block, AT.n_keys)):
        put_int(room.slot_of_key, key, -1)
    for lane in range(TILE):
        put_int(room.lanes_of_tile, lane, lane)
    for label in range(plan_at(block, AT.plan).classes):
        put_flag(room.touched, label, 0)


@kernel
def rows_of_run(like, block, run, batch, key_head):  # type: ignore[no-untyped-def]
    """Address of the rows of a run for a key head."""
    runs, table = runs_at(block, AT.runs), table_at(block, AT.table)
    before = batch * sizes_at(block, AT.sizes).key_heads + key_head
    row = before * runs.n_shared + word_at(runs.indptr, run)
    return table.address + row * table.row * memory.size_of(like)


@kernel
def rows_of_pairs(block, room, place):  # type: ignore[no-untyped-def]
    """Address of the rows of gradients of biases of one of the heads that a thread works on together."""
    return room.pair_gradients + place * word_at(block, AT.pair_gradients_size)


@kernel
def pair_gradients_at(like, block, item, head):  # type: ignore[no-untyped-def]
    """Address of the gradients of a relation's table, those of a run for a head."""
    own = item.run * word_at(block, AT.grad_pair_bias_run) * memory.size_of(like)
    return rows_at(like, view_at(block, AT.grad_pair_bias), item.batch, head) + own


@kernel
def scale_at(like, block, batch, head):  # type: ignore[no-untyped-def]
    """The factor of q·k in a head."""
    scales = scales_at(block, AT.scales)
    return memory.load(like, scales.address, batch * scales.batch + head)


@kernel
def add_rows(like, block, room, source, target):  # type: ignore[no-untyped-def]
    """Add a row of gradients for each entry of the touched classes to a table, by number; leave zeros."""
    plan, numbers = plan_at(block, AT.plan), word_at(block, AT.added)
    for label in range(plan.classes):
        if flag_at(room.touched, label) == 0:
            continue
        for at in range(word_at(plan.indptr, label) * TILE, word_at(plan.indptr, label + 1) * TILE):
            number = int_at(numbers, at)
            total = memory.load(like, target, number) + memory.load(like, source, at)
            memory.store(like, target, number, total)
            memory.store(like, source, at, like * 0)


@kernel
def begin(like, block, start, item):  # type: ignore[no-untyped-def]
    """Number the shared keys of a run, and set what it adds to to 0."""
    runs, sizes, table = runs_at(block, AT.runs), sizes_at(block, AT.sizes), table_at(block, AT.table)
    grad_k, grad_v, width = view_at(block, AT.grad_k), view_at(block, AT.grad_v), memory.size_of(like)
    slot_of_key, first = room_at(block, AT.room, start).slot_of_key, word_at(runs.indptr, item.run)
    n_shared = word_at(runs.indptr, item.run + 1) - first
    for slot in range(n_shared):
        put_int(slot_of_key, int_at(runs.keys, first + slot), slot)
    for key_head in range(item.first_key_head, item.last_key_head):
        own = rows_of_run(like, block, item.run, item.batch, key_head)
        memory.fill(like, own, n_shared * table.row, like * 0)
        k_at = rows_at(like, grad_k, item.batch, key_head)
        v_at = rows_at(like, grad_v, item.batch, key_head)
        for at in range(word_at(runs.own_indptr, item.run), word_at(runs.own_indptr, item.run + 1)):
            key = int_at(runs.own, at)
            memory.fill(like, k_at + key * grad_k.token * width, sizes.depth, like * 0)
            memory.fill(like, v_at + key * grad_v.token * width, sizes.value_depth, like * 0)


@kernel
def load(like, block, start, item, head, tile):  # type: ignore[no-untyped-def]
    """Fill the state of a head with the queries of a tile and the gradients of their results."""
    sizes, table, order = (
        sizes_at(block, AT.sizes),
        table_at(block, AT.table),
        plan_at(block, AT.plan).query_order,
    )
    q, grad_out, first = view_at(block, AT.q), view_at(block, AT.grad_out), tile * TILE
    q_at, out_at = rows_at(like, q, item.batch, head), rows_at(like, grad_out, item.batch, head)
    room = room_at(block, AT.room, start)
    state = state_of(block, room, head - item.first_head)
    memory.store(like, room.factor, 0, scale_at(like, block, item.batch, head))
    load_rows(like, order, first, q_at, q.token, sizes.depth, table.key_width, room.factor, state.query_rows)
    load_rows(
        like,
        order,
        first,
        out_at,
        grad_out.token,
        sizes.value_depth,
        table.value_width,
        room.one,
        state.gradient_rows,
    )
    turn_rows(
        like,
        state.query_rows,
        table.key_width,
        room.lanes_of_tile,
        sizes.depth,
        room.to_base_two,
        state.queries,
    )
    turn_rows(
        like,
        state.gradient_rows,
        table.value_width,
        room.lanes_of_tile,
        sizes.value_depth,
        room.one,
        state.gradients,
    )
    load_levels(like, block, item.batch, head, first, state)
    memory.fill(like, state.query_gradients, TILE * table.key_width, like * 0)


@kernel
def turn_rows(like, source, width, lanes, depth, factor, by_lanes):  # type: ignore[no-untyped-def]
    """The micro-kernel ``turn`` for rows that lie side by side."""
    rows.turn(like, source, width, lanes, depth, factor, source, by_lanes)


@kernel
def load_levels(like, block, batch, head, first, state):  # type: ignore[no-untyped-def]
    """Log-sum-exps in units of log 2, and δ = out·dout − dlse, of a tile."""
    out, lse, grad_lse = view_at(block, AT.out), view_at(block, AT.lse), view_at(block, AT.grad_lse)
    order, depth = plan_at(block, AT.plan).query_order, sizes_at(block, AT.sizes).value_depth
    stride, width = table_at(block, AT.table).value_width, memory.size_of(like)
    out_at, lse_at = rows_at(like, out, batch, head), rows_at(like, lse, batch, head)
    grad_at = rows_at(like, grad_lse, batch, head)
    for lane in range(TILE):
        token = int_at(order, first + lane)
        if token >= 0:
            rows.fetch(like, out_at + token * out.token * width, depth)
    for lane in range(TILE):
        token = int_at(order, first + lane)
        memory.store(like, state.levels, lane, type(like)(HIGHEST))
        memory.store(like, state.delta, lane, like * 0)
        if token < 0:
            continue
        level = memory.load(like, lse_at, token * lse.token)
        if level == -np.inf:
            continue
        memory.store(like, state.levels, lane, level * type(like)(LOG2_E))
        gradient = state.gradient_rows + lane * stride * width
        rows.dot(like, out_at + token * out.token * width, gradient, depth, state.delta + lane * width)
        if grad_lse.address != 0:
            total = memory.load(like, state.delta, lane) - memory.load(like, grad_at, token * grad_lse.token)
            memory.store(like, state.delta, lane, total)


@kernel
def begin_keys(like, block, start, batch, key_head, n_keys):  # type: ignore[no-untyped-def]
    """Rows of the listed keys in a head of theirs; what is added to their gradients is 0."""
    room, listed = room_at(block, AT.room, start), listed_at(block, AT.listed, start)
    sizes, table = sizes_at(block, AT.sizes), table_at(block, AT.table)
    k, v = view_at(block, AT.k), view_at(block, AT.v)
    k_at, v_at = rows_at(like, k, batch, key_head), rows_at(like, v, batch, key_head)
    memory.fill(like, room.packed_gradients, n_keys * table.row, like * 0)
    if table.packed_width == 0:
        return Keys(k_at, v_at, k_at, k.token, listed.keys)
    rows.pack(like, k_at, k.token, listed.tokens, n_keys, sizes.depth, room.packed, table.key_width)
    return Keys(k_at, v_at, room.packed, table.key_width, listed.places)


@kernel
def score(like, block, start, state, group, of_keys, pairs):  # type: ignore[no-untyped-def]
    """Probabilities and gradients of scores of a group of queries with the keys it sees."""
    room, listed = room_at(block, AT.room, start), listed_at(block, AT.listed, start)
    sizes, capacity, width = sizes_at(block, AT.sizes), word_at(block, AT.capacity), memory.size_of(like)
    k, v = view_at(block, AT.k).token, view_at(block, AT.v).token
    # keys that two groups see meet them both at once
    alike, count = word_at(listed.both, group // 2), word_at(listed.counts, group)
    lanes, own = group * LANES * width, group * capacity
    matrix = group % 2 * capacity * LANES * width
    keys, places, masks = listed.keys + own * 4, listed.places + own * 4, listed.masks + own * 4
    biases = listed.biases + own * width
    queries, gradients = state.queries + lanes * sizes.depth, state.gradients + lanes * sizes.value_depth
    levels, delta = state.levels + lanes, state.delta + lanes
    if group % 2 == 0 and alike > 0:
        micro.probabilities_of_two(
            like,
            of_keys.k,
            k,
            keys,
            places,
            alike,
            queries,
            sizes.depth,
            biases,
            masks,
            capacity,
            levels,
            room.probabilities,
            pairs,
        )
        micro.score_gradients_of_two(
            like,
            of_keys.v,
            v,
            keys,
            alike,
            gradients,
            sizes.value_depth,
            room.probabilities,
            capacity,
            delta,
            room.score_gradients,
        )
    rest = matrix + alike * LANES * width
    micro.probabilities(
        like,
        of_keys.k,
        k,
        keys + alike * 4,
        places + alike * 4,
        padded(count) - alike,
        queries,
        sizes.depth,
        biases + alike * width,
        masks + alike * 4,
        capacity,
        levels,
        room.probabilities + rest,
        pairs,
    )
    micro.score_gradients(
        like,
        of_keys.v,
        v,
        keys + alike * 4,
        padded(count) - alike,
        gradients,
        sizes.value_depth,
        room.probabilities + rest,
        capacity,
        delta,
        room.score_gradients + rest,
    )


@kernel
def collect(like, block, start, state, group, of_keys, pairs):  # type: ignore[no-untyped-def]
    """Add what a group of queries gives to the gradients of its queries and of the packed keys."""
    room, listed = room_at(block, AT.room, start), listed_at(block, AT.listed, start)
    table, capacity, width = table_at(block, AT.table), word_at(block, AT.capacity), memory.size_of(like)
    key_width, value_width, row = table.key_width, table.value_width, table.row
    lanes, matrix = group * LANES * width, group % 2 * capacity * LANES * width
    count, places = word_at(listed.counts, group), listed.places + group * capacity * 4
    scores, weights = room.score_gradients + matrix, room.probabilities + matrix
    query_rows = state.query_rows + lanes * key_width
    gradient_rows = state.gradient_rows + lanes * value_width
    dk, dv = room.packed_gradients, room.packed_gradients + key_width * width
    keys = of_keys.lists + group * capacity * 4
    micro.gather(
        like,
        of_keys.whole,
        of_keys.stride,
        keys,
        count,
        scores,
        state.query_gradients + lanes * key_width,
        key_width,
    )
    scatter(like, scores, padded(count), query_rows, key_width, dk, row, places)
    scatter(like, weights, padded(count), gradient_rows, value_width, dv, row, places)
    micro.add_to_pairs(like, scores, places, count, pairs)
    if table.bias_width:
        add_bias(like, scores, count, places, dv + value_width * width, row)


@kernel
def scatter(like, weights, count, source, row_width, base, stride, slots):  # type: ignore[no-untyped-def]
    """The micro-kernel of that name, compiled once for its two uses."""
    micro.scatter(like, weights, count, source, row_width, base, stride, slots, row_width)


@kernel
def add_bias(like, score_gradients, count, places, base, stride):  # type: ignore[no-untyped-def]
    """Add the score gradients of all lanes to the bias column of each key's row."""
    for at in range(count):
        total = like * 0
        for lane in range(LANES):
            total += memory.load(like, score_gradients, at * LANES + lane)
        column = int_at(places, at) * stride
        memory.store(like, base, column, memory.load(like, base, column) + total)


@kernel
def spread(like, block, start, batch, key_head, run, n_keys):  # type: ignore[no-untyped-def]
    """Add the gradients of packed keys to those of the keys, or to the table of the run."""
    sizes, table, width = sizes_at(block, AT.sizes), table_at(block, AT.table), memory.size_of(like)
    grad_k, grad_v, row = view_at(block, AT.grad_k), view_at(block, AT.grad_v), table.row
    own = rows_of_run(like, block, run, batch, key_head)
    k_at = rows_at(like, grad_k, batch, key_head)
    v_at = rows_at(like, grad_v, batch, key_head)
    first = (batch * sizes.key_heads + key_head) * word_at(block, AT.n_keys)
    bias_at = word_at(block, AT.grad_bias) + first * width
    room, tokens = room_at(block, AT.room, start), listed_at(block, AT.listed, start).tokens
    for at in range(n_keys):
        source, key = room.packed_gradients + at * row * width, int_at(tokens, at)
        if at + AHEAD < n_keys:
            later = int_at(tokens, at + AHEAD)
            rows.fetch(like, k_at + later * grad_k.token * width, sizes.depth)
            rows.fetch(like, v_at + later * grad_v.token * width, sizes.value_depth)
        slot = int_at(room.slot_of_key, key)
        if slot >= 0:
            rows.add_row(like, source, row, own + slot * row * width)
            continue
        rows.add_row(like, source, sizes.depth, k_at + key * grad_k.token * width)
        source += table.key_width * width
        rows.add_row(like, source, sizes.value_depth, v_at + key * grad_v.token * width)
        if table.bias_width:
            rows.add_row(like, source + table.value_width * width, 1, bias_at + key * width)


@kernel
def store(like, block, start, item, head, tile):  # type: ignore[no-untyped-def]
    """Write the gradients of a tile's queries, and what they add to that of the scale."""
    q, grad_q, grad_scale = view_at(block, AT.q), view_at(block, AT.grad_q), view_at(block, AT.grad_scale)
    depth, width, b = sizes_at(block, AT.sizes).depth, memory.size_of(like), item.batch
    order, stride = plan_at(block, AT.plan).query_order, table_at(block, AT.table).key_width * width
    room = room_at(block, AT.room, start)
    gradients = state_of(block, room, head - item.first_head).query_gradients
    q_at, grad_at = rows_at(like, q, b, head), rows_at(like, grad_q, b, head)
    scale_gradients = rows_at(like, grad_scale, b, head)
    memory.store(like, room.factor, 0, scale_at(like, block, b, head))
    for lane in range(TILE):
        token = int_at(order, tile * TILE + lane)
        if token < 0:
            continue
        unscaled = gradients + lane * stride
        rows.scale_row(like, unscaled, room.factor, depth, grad_at + token * grad_q.token * width)
        if grad_scale.address != 0:
            target = scale_gradients + token * grad_scale.token * width
            rows.dot(like, q_at + token * q.token * width, unscaled, depth, target)


@task
def add_runs(like, block):  # type: ignore[no-untyped-def]
    """Sum the tables of all runs into dk and dv of the shared keys, a range of keys at a time."""
    runs, sizes, table = runs_at(block, AT.runs), sizes_at(block, AT.sizes), table_at(block, AT.table)
    grad_k, grad_v, width = view_at(block, AT.grad_k), view_at(block, AT.grad_v), memory.size_of(like)
    n_keys = word_at(block, AT.n_keys)
    ranges = (n_keys + KEYS_AT_ONCE - 1) // KEYS_AT_ONCE
    while True:
        number = memory.take_ticket(block + 8 * AT.ranges)
        if number >= sizes.batch * sizes.key_heads * ranges:
            break
        first = number % ranges * KEYS_AT_ONCE
        last = min(n_keys, first + KEYS_AT_ONCE)
        key_head, b = number // ranges % sizes.key_heads, number // (ranges * sizes.key_heads)
        k_at, v_at = rows_at(like, grad_k, b, key_head), rows_at(like, grad_v, b, key_head)
        for run in range(runs.n_runs):
            low, high = word_at(runs.indptr, run), word_at(runs.indptr, run + 1)
            base = rows_of_run(like, block, run, b, key_head)
            for at in range(place_of(runs.keys, low, high, first), place_of(runs.keys, low, high, last)):
                key = int_at(runs.keys, at)
                k_row, v_row = k_at + key * grad_k.token * width, v_at + key * grad_v.token * width
                if flag_at(runs.begins, at):
                    memory.fill(like, k_row, sizes.depth, like * 0)
                    memory.fill(like, v_row, sizes.value_depth, like * 0)
                source = base + (at - low) * table.row * width
                rows.add_row(like, source, sizes.depth, k_row)
                rows.add_row(like, source + table.key_width * width, sizes.value_depth, v_row)


@kernel
def place_of(numbers, low, high, number):  # type: ignore[no-untyped-def]
    """Where among ascending int32 numbers, from a place to another, the first is that is not smaller."""
    while low < high:
        middle = (low + high) // 2
        if int_at(numbers, middle) < number:
            low = middle + 1
        else:
            high = middle
    return low
