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

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.blocks import (
    AT,
    Table,
    View,
    lists_at,
    numbers_at,
    runs_at,
    scales_at,
    sizes_at,
    table_at,
    view_at,
    words_at,
)
from geoattn.backends.cpu.compiled import kernel, task
from geoattn.backends.cpu.lists import (
    GROUPS,
    KEY_BLOCK,
    LANES,
    LOG2_E,
    TILE,
    aligned,
    fill,
    lane_offsets,
    list_keys,
    load_rows,
    padded,
    pairs_at,
)
from geoattn.backends.cpu.schedule import Chunks, Lists, filled

#: keys whose run tables are added up at once
KEYS_AT_ONCE = 512
#: rows of a table that are asked of memory before their turn
AHEAD = 8
#: stands for the log-sum-exp −∞ of a query without keys: all its probabilities become 0
HIGHEST = 1e30


class Work(NamedTuple):
    """What is to be done, and how it is dealt to threads."""

    lists: Lists
    #: tiles and keys of each run; an item of work is a run for some key heads of a batch entry
    runs: Chunks
    #: most keys to work on at once
    block: int
    #: key heads that one item takes
    together: int
    n_keys: int


class Inputs(NamedTuple):
    """What the forward pass had and gave, and the gradients of that."""

    q: View
    k: View
    v: View
    #: (address or 0, batch stride)
    bias: tuple[int, int]
    out: View
    lse: View
    grad_out: View
    grad_lse: View
    #: factors of q·k, ``[B or 1, heads]``
    scales: NDArray[Any]
    #: in units of log 2, what is added to the score of a pair with each number, or a row of biases for each
    #: entry of the plan; unused without a relation
    pair_bias: View


class Outputs(NamedTuple):
    """Where the gradients go."""

    q: View
    k: View
    v: View
    #: address of one number for each batch entry, key head and key: 0 at first, unused without channels
    bias: int
    #: like lse, or none: what each query adds to the gradient of its head's scale
    scale: View
    table: Table
    #: one table for each run, where runs have numbers in common; unused without a relation
    pair_bias: View
    #: from the table of one run to that of the next
    pair_bias_run: int


class Room(NamedTuple):
    """What a thread works with. The buffers are addresses: their arrays live as long as the kernel runs."""

    #: keys of a tile, and those of its groups: see :func:`list_keys`
    tokens: NDArray[np.int32]
    entries: NDArray[np.int32]
    keys: NDArray[np.int32]
    places: NDArray[np.int32]
    masks: NDArray[np.int32]
    biases: NDArray[Any]
    both: NDArray[np.int64]
    counts: NDArray[np.int64]
    #: row of each key in the table of the run, −1 for keys that no other run touches
    slot_of_key: NDArray[np.int32]
    lanes_of_tile: NDArray[np.int32]
    #: where each query's own part of a relation's table begins, and that of its gradients
    offsets: NDArray[np.int32]
    gradient_offsets: NDArray[np.int32]
    #: classes of tiles whose entries have gradients in ``pair_gradients``
    touched: NDArray[np.bool_]
    to_base_two: NDArray[Any]
    one: NDArray[Any]
    factor: NDArray[Any]
    #: one state after the other, see :class:`State`, of ``state`` numbers each
    states: int
    state: int
    #: of two groups each, ``[2, capacity, LANES]``
    probabilities: int
    score_gradients: int
    #: rows of k in whole vectors, where they do not lie so already
    packed_keys: int
    packed_gradients: int
    #: of each head, a row of gradients of biases for each entry of the plan
    pair_gradients: int


class State(NamedTuple):
    """Addresses of what is held of the queries of a tile in one head, ``[TILE, channels]`` or by lanes."""

    query_rows: int
    query_gradients: int
    gradient_rows: int
    #: ``[groups, channels, lanes]``, like ``gradients``
    queries: int
    gradients: int
    #: log-sum-exps in units of log 2, and δ
    levels: int
    delta: int


class Listed(NamedTuple):
    """Rows of a tensor in one head, and which of them each group of lanes sees."""

    address: int
    stride: int
    #: address of int32 lists ``[GROUPS, capacity]``
    lists: int


class Item(NamedTuple):
    """A run, for some key heads of a batch entry."""

    run: int
    batch: int
    first_key_head: int
    last_key_head: int
    first_head: int
    last_head: int


@task
def backward(like, related, rows, learned, learned_rows, address):  # type: ignore[no-untyped-def]
    """Take runs of tiles until none is left: all that one thread does.

    Parameters
    ----------
    like
        A number of the type that is computed in.
    related
        None without a relation; else any number.
    rows
        None where biases are looked up in a table by number; else any number.
    learned, learned_rows
        The same where the table needs a gradient; None where it does not.
    address
        Of the block, see :mod:`geoattn.backends.cpu.blocks`.
    """
    words = words_at(address)
    lists, sizes = lists_at(words), sizes_at(words)
    work = Work(lists, runs_at(words), words[AT.block], words[AT.together], words[AT.n_keys])
    inputs, outputs = inputs_at(like, words, sizes.heads), outputs_at(words)
    numbers, added = numbers_at(related, words, AT.numbers), numbers_at(learned, words, AT.added)
    table = outputs.table
    capacity = work.block + KEY_BLOCK
    shared = sizes.heads // sizes.key_heads
    # one buffer: the state of each head, two matrices of two groups, packed rows and their gradients
    state = TILE * (2 * table.key_width + sizes.depth + table.value_width + sizes.value_depth + 2)
    per_key = packed_width(table, sizes) + row_of(table)
    buffer = aligned(work.together * shared * state + 4 * capacity * LANES + work.block * per_key, like)
    per_head = 0 if learned_rows is None else len(added) * TILE
    pair_gradients = np.zeros(work.together * shared * per_head, type(like))
    room = furnished(
        like, buffer, pair_gradients.ctypes.data, capacity, work.together * shared, state, work, table, sizes
    )
    n_runs = len(work.runs.tiles) - 1
    parts = (sizes.key_heads + work.together - 1) // work.together
    while True:
        number = micro.take_ticket(address + 8 * AT.items)
        if number >= sizes.batch * parts * n_runs:
            break
        first = number // n_runs % parts * work.together
        last = min(sizes.key_heads, first + work.together)
        item = Item(number % n_runs, number // (n_runs * parts), first, last, first * shared, last * shared)
        begin(like, item, work.runs, outputs, sizes, room)
        for tile in range(work.runs.tiles[item.run], work.runs.tiles[item.run + 1]):
            if numbers is not None:
                lane_offsets(lists.query_order, tile * TILE, inputs.pair_bias.token, room.offsets)
                lane_offsets(lists.query_order, tile * TILE, outputs.pair_bias.token, room.gradient_offsets)
            for head in range(item.first_head, item.last_head):
                load(like, item, head, tile, lists, inputs, table, sizes, room)
            label = lists.tile_class[tile]
            room.touched[label] = True
            end = lists.indptr[label + 1]
            for start in range(lists.indptr[label], end, work.block):
                stop = min(end, start + work.block)
                multiply(
                    like,
                    item,
                    tile,
                    start,
                    stop,
                    work,
                    inputs,
                    outputs,
                    sizes,
                    room,
                    numbers,
                    rows,
                    added,
                    learned_rows,
                )
            for head in range(item.first_head, item.last_head):
                store(like, item, head, tile, lists, inputs, outputs, sizes, room)
        if learned_rows is not None:
            for head in range(item.first_head, item.last_head):
                source = room.pair_gradients + (head - item.first_head) * per_head * buffer.itemsize
                add_rows(
                    like, lists, added, room.touched, source, pair_gradients_at(like, item, head, outputs)
                )
        for label in range(len(room.touched)):
            room.touched[label] = False
    # an array is freed after its last mention, and all above goes by addresses
    return max(1, buffer.size + pair_gradients.size)


@kernel
def inputs_at(like, words, heads):  # type: ignore[no-untyped-def]
    """What a block says of the operands."""
    return Inputs(
        view_at(words, AT.q),
        view_at(words, AT.k),
        view_at(words, AT.v),
        (words[AT.bias], words[AT.bias + 1]),
        view_at(words, AT.out),
        view_at(words, AT.lse),
        view_at(words, AT.grad_out),
        view_at(words, AT.grad_lse),
        scales_at(like, words, heads),
        view_at(words, AT.pair_bias),
    )


@kernel
def outputs_at(words):  # type: ignore[no-untyped-def]
    """What a block says of the results."""
    return Outputs(
        view_at(words, AT.grad_q),
        view_at(words, AT.grad_k),
        view_at(words, AT.grad_v),
        words[AT.grad_bias],
        view_at(words, AT.grad_scale),
        table_at(words),
        view_at(words, AT.grad_pair_bias),
        words[AT.grad_pair_bias_run],
    )


@kernel
def furnished(like, buffer, pair_gradients, capacity, heads, state, work, table, sizes):  # type: ignore[no-untyped-def]
    """The room of a thread in its buffer."""
    width = buffer.itemsize
    states = buffer.ctypes.data
    probabilities = states + heads * state * width
    score_gradients = probabilities + 2 * capacity * LANES * width
    packed_keys = score_gradients + 2 * capacity * LANES * width
    packed_gradients = packed_keys + work.block * packed_width(table, sizes) * width
    # what lies beyond the depth stays 0
    fill(like, packed_keys, (packed_gradients - packed_keys) // width, like * 0)
    # loops, since each of numpy's functions costs a while to compile
    slot_of_key, lanes_of_tile = filled(work.n_keys, -1), np.empty(TILE, np.int32)
    for lane in range(TILE):
        lanes_of_tile[lane] = lane
    to_base_two, one = np.empty(1, type(like)), np.empty(1, type(like))
    to_base_two[0], one[0] = type(like)(LOG2_E), type(like)(1)
    touched = np.empty(len(work.lists.indptr) - 1, np.bool_)
    for label in range(len(touched)):
        touched[label] = False
    return Room(
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
        np.empty((GROUPS, capacity), np.int32),
        np.empty((GROUPS, capacity), np.int32),
        np.empty((GROUPS, capacity), np.int32),
        np.empty((GROUPS, capacity), type(like)),
        np.empty(GROUPS // 2, np.int64),
        np.empty(GROUPS, np.int64),
        slot_of_key,
        lanes_of_tile,
        np.empty(TILE, np.int32),
        np.empty(TILE, np.int32),
        touched,
        to_base_two,
        one,
        np.empty(1, type(like)),
        states,
        state,
        probabilities,
        score_gradients,
        packed_keys,
        packed_gradients,
        pair_gradients,
    )


@kernel
def row_of(table):  # type: ignore[no-untyped-def]
    """Channels of a row of gradients."""
    return table.key_width + table.value_width + table.bias_width


@kernel
def packed_width(table, sizes):  # type: ignore[no-untyped-def]
    """Channels of a packed row of k: 0 where rows are whole vectors, and read where they lie."""
    return table.key_width if table.key_width > sizes.depth else 0


@kernel
def rows_at(like, view, batch, head):  # type: ignore[no-untyped-def]
    """Address of a tensor's rows for a batch entry and a head."""
    return view.address + (batch * view.batch + head * view.head) * micro.size_of(like)


@kernel
def rows_of_run(like, item, key_head, runs, table, sizes):  # type: ignore[no-untyped-def]
    """Address of the rows of a run for a key head."""
    row = (item.batch * sizes.key_heads + key_head) * len(runs.keys) + runs.indptr[item.run]
    return table.address + row * row_of(table) * micro.size_of(like)


@kernel
def pair_gradients_at(like, item, head, outputs):  # type: ignore[no-untyped-def]
    """Address of the gradients of a relation's table, those of a run for a head."""
    own = item.run * outputs.pair_bias_run * micro.size_of(like)
    return rows_at(like, outputs.pair_bias, item.batch, head) + own


@kernel
def add_rows(like, lists, numbers, touched, rows, table):  # type: ignore[no-untyped-def]
    """Add a row of gradients for each entry of the touched classes to a table, by number; leave zeros."""
    for label in range(len(touched)):
        if not touched[label]:
            continue
        for entry in range(lists.indptr[label], lists.indptr[label + 1]):
            for lane in range(TILE):
                number, at = numbers[entry, lane], entry * TILE + lane
                total = micro.load(like, table, number) + micro.load(like, rows, at)
                micro.store(like, table, number, total)
                micro.store(like, rows, at, like * 0)


@kernel
def state_of(like, item, head, room, table, sizes):  # type: ignore[no-untyped-def]
    """Where the state of a head lies."""
    width = micro.size_of(like)
    query_rows = room.states + (head - item.first_head) * room.state * width
    query_gradients = query_rows + TILE * table.key_width * width
    gradient_rows = query_gradients + TILE * table.key_width * width
    queries = gradient_rows + TILE * table.value_width * width
    gradients = queries + TILE * sizes.depth * width
    levels = gradients + TILE * sizes.value_depth * width
    return State(
        query_rows, query_gradients, gradient_rows, queries, gradients, levels, levels + TILE * width
    )


@kernel
def begin(like, item, runs, outputs, sizes, room):  # type: ignore[no-untyped-def]
    """Number the shared keys of a run, and set what it adds to to 0."""
    table, width = outputs.table, micro.size_of(like)
    first = runs.indptr[item.run]
    n_shared = runs.indptr[item.run + 1] - first
    for slot in range(n_shared):
        room.slot_of_key[runs.keys[first + slot]] = slot
    for key_head in range(item.first_key_head, item.last_key_head):
        own = rows_of_run(like, item, key_head, runs, table, sizes)
        fill(like, own, n_shared * row_of(table), like * 0)
        grad_k = rows_at(like, outputs.k, item.batch, key_head)
        grad_v = rows_at(like, outputs.v, item.batch, key_head)
        for at in range(runs.own_indptr[item.run], runs.own_indptr[item.run + 1]):
            fill(like, grad_k + runs.own[at] * outputs.k.token * width, sizes.depth, like * 0)
            fill(like, grad_v + runs.own[at] * outputs.v.token * width, sizes.value_depth, like * 0)


@kernel
def load(like, item, head, tile, lists, inputs, table, sizes, room):  # type: ignore[no-untyped-def]
    """Fill the state of a head with the queries of a tile and the gradients of their results."""
    b, order, start = item.batch, lists.query_order, tile * TILE
    depth, value_depth, one = sizes.depth, sizes.value_depth, room.one.ctypes.data
    state = state_of(like, item, head, room, table, sizes)
    q, grad_out = rows_at(like, inputs.q, b, head), rows_at(like, inputs.grad_out, b, head)
    rows, gradients = state.query_rows, state.gradient_rows
    room.factor[0] = inputs.scales[min(b, len(inputs.scales) - 1), head]
    factor = room.factor.ctypes.data
    load_rows(like, order, start, q, inputs.q.token, depth, table.key_width, factor, rows)
    load_rows(
        like, order, start, grad_out, inputs.grad_out.token, value_depth, table.value_width, one, gradients
    )
    lanes, two = room.lanes_of_tile, room.to_base_two.ctypes.data
    turn_rows(like, rows, table.key_width, lanes, depth, two, state.queries)
    turn_rows(like, gradients, table.value_width, lanes, value_depth, one, state.gradients)
    load_levels(like, order, start, b, head, inputs, table, value_depth, state)
    fill(like, state.query_gradients, TILE * table.key_width, like * 0)


@kernel
def multiply(  # type: ignore[no-untyped-def]
    like,
    item,
    tile,
    first,
    last,
    work,
    inputs,
    outputs,
    sizes,
    room,
    numbers,
    rows,
    added,
    added_rows,
):
    """Entries ``first`` to ``last`` of a tile's list, in all heads of an item."""
    table, width, b = outputs.table, micro.size_of(like), item.batch
    shared = sizes.heads // sizes.key_heads
    bias = inputs.bias[0] + b * inputs.bias[1] * width if inputs.bias[0] != 0 else 0
    tokens = room.tokens.ctypes.data
    n_keys = list_keys(
        like,
        work.lists,
        tile,
        first,
        last,
        bias,
        room.tokens,
        room.entries,
        room.keys,
        room.places,
        room.masks,
        room.biases,
        room.both,
        room.counts,
    )
    for key_head in range(item.first_key_head, item.last_key_head):
        k, v = rows_at(like, inputs.k, b, key_head), rows_at(like, inputs.v, b, key_head)
        listed = Listed(k, inputs.k.token, room.keys.ctypes.data)
        if packed_width(table, sizes):
            micro.pack(
                like, k, inputs.k.token, tokens, n_keys, sizes.depth, room.packed_keys, table.key_width
            )
            listed = Listed(room.packed_keys, table.key_width, room.places.ctypes.data)
        fill(like, room.packed_gradients, n_keys * row_of(table), like * 0)
        for head in range(key_head * shared, (key_head + 1) * shared):
            state = state_of(like, item, head, room, table, sizes)
            biases = rows_at(like, inputs.pair_bias, b, head)
            gradients = pair_gradients_at(like, item, head, outputs)
            if added_rows is not None:
                own = (head - item.first_head) * len(added) * TILE * width
                gradients = room.pair_gradients + own
            for group in range(GROUPS):
                pairs = pairs_at(like, numbers, rows, first, group, room.entries, room.offsets, biases)
                score(like, group, state, k, v, inputs, sizes, room, pairs)
                pairs = pairs_at(
                    like, added, added_rows, first, group, room.entries, room.gradient_offsets, gradients
                )
                collect(like, group, state, listed, table, room, pairs)
        spread(like, item, key_head, n_keys, work, outputs, sizes, room)


@kernel
def score(like, group, state, k, v, inputs, sizes, room, pairs):  # type: ignore[no-untyped-def]
    """Probabilities and gradients of scores of a group of queries with the keys it sees."""
    width, capacity = micro.size_of(like), room.keys.shape[1]
    depth, value_depth = sizes.depth, sizes.value_depth
    # keys that two groups see meet them both at once
    alike, count = room.both[group // 2], room.counts[group]
    lanes, start = group * LANES * width, group * capacity
    matrix = group % 2 * capacity * LANES * width
    keys, places = room.keys.ctypes.data + start * 4, room.places.ctypes.data + start * 4
    masks = room.masks.ctypes.data + start * 4
    biases = room.biases.ctypes.data + start * width
    queries, gradients = state.queries + lanes * depth, state.gradients + lanes * value_depth
    levels, delta = state.levels + lanes, state.delta + lanes
    if group % 2 == 0 and alike > 0:
        micro.probabilities_of_two(
            like,
            k,
            inputs.k.token,
            keys,
            places,
            alike,
            queries,
            depth,
            biases,
            masks,
            capacity,
            levels,
            room.probabilities,
            pairs,
        )
        micro.score_gradients_of_two(
            like,
            v,
            inputs.v.token,
            keys,
            alike,
            gradients,
            value_depth,
            room.probabilities,
            capacity,
            delta,
            room.score_gradients,
        )
    rest = matrix + alike * LANES * width
    micro.probabilities(
        like,
        k,
        inputs.k.token,
        keys + alike * 4,
        places + alike * 4,
        padded(count) - alike,
        queries,
        depth,
        biases + alike * width,
        masks + alike * 4,
        capacity,
        levels,
        room.probabilities + rest,
        pairs,
    )
    micro.score_gradients(
        like,
        v,
        inputs.v.token,
        keys + alike * 4,
        padded(count) - alike,
        gradients,
        value_depth,
        room.probabilities + rest,
        capacity,
        delta,
        room.score_gradients + rest,
    )


@kernel
def collect(like, group, state, rows_of_k, table, room, pairs):  # type: ignore[no-untyped-def]
    """Add what a group of queries gives to the gradients of its queries and of the packed keys."""
    width, capacity = micro.size_of(like), room.keys.shape[1]
    key_width, value_width, row = table.key_width, table.value_width, row_of(table)
    lanes, matrix = group * LANES * width, group % 2 * capacity * LANES * width
    count, places = room.counts[group], room.places.ctypes.data + group * capacity * 4
    scores, weights = room.score_gradients + matrix, room.probabilities + matrix
    query_gradients = state.query_gradients + lanes * key_width
    query_rows, gradient_rows = (
        state.query_rows + lanes * key_width,
        state.gradient_rows + lanes * value_width,
    )
    of_keys, of_values = room.packed_gradients, room.packed_gradients + key_width * width
    k, stride, keys = rows_of_k.address, rows_of_k.stride, rows_of_k.lists + group * capacity * 4
    micro.gather(like, k, stride, keys, count, scores, query_gradients, key_width)
    scatter(like, scores, padded(count), query_rows, key_width, of_keys, row, places)
    scatter(like, weights, padded(count), gradient_rows, value_width, of_values, row, places)
    micro.add_to_pairs(like, scores, places, count, pairs)
    if table.bias_width:
        add_bias(like, scores, count, room.places, group, of_values + value_width * width, row)


@kernel
def spread(like, item, key_head, n_keys, work, outputs, sizes, room):  # type: ignore[no-untyped-def]
    """Add the gradients of packed keys to those of the keys, or to the table of the run."""
    table, width, row = outputs.table, micro.size_of(like), row_of(outputs.table)
    depth, value_depth = sizes.depth, sizes.value_depth
    own = rows_of_run(like, item, key_head, work.runs, table, sizes)
    grad_k = rows_at(like, outputs.k, item.batch, key_head)
    grad_v = rows_at(like, outputs.v, item.batch, key_head)
    grad_bias = outputs.bias + (item.batch * sizes.key_heads + key_head) * work.n_keys * width
    for at in range(n_keys):
        source, key = room.packed_gradients + at * row * width, room.tokens[at]
        if at + AHEAD < n_keys:
            later = room.tokens[at + AHEAD]
            micro.fetch(like, grad_k + later * outputs.k.token * width, depth)
            micro.fetch(like, grad_v + later * outputs.v.token * width, value_depth)
        if room.slot_of_key[key] >= 0:
            micro.add_row(like, source, row, own + room.slot_of_key[key] * row * width)
            continue
        micro.add_row(like, source, depth, grad_k + key * outputs.k.token * width)
        source += table.key_width * width
        micro.add_row(like, source, value_depth, grad_v + key * outputs.v.token * width)
        if table.bias_width:
            micro.add_row(like, source + table.value_width * width, 1, grad_bias + key * width)


@kernel
def store(like, item, head, tile, lists, inputs, outputs, sizes, room):  # type: ignore[no-untyped-def]
    """Write the gradients of a tile's queries, and what they add to that of the scale."""
    width, b, key_width = micro.size_of(like), item.batch, outputs.table.key_width
    gradients = state_of(like, item, head, room, outputs.table, sizes).query_gradients
    grad_q, q = rows_at(like, outputs.q, b, head), rows_at(like, inputs.q, b, head)
    grad_scale = rows_at(like, outputs.scale, b, head)
    room.factor[0] = inputs.scales[min(b, len(inputs.scales) - 1), head]
    for lane in range(TILE):
        token = lists.query_order[tile * TILE + lane]
        if token < 0:
            continue
        unscaled = gradients + lane * key_width * width
        target = grad_q + token * outputs.q.token * width
        micro.scale_row(like, unscaled, room.factor.ctypes.data, sizes.depth, target)
        if outputs.scale.address != 0:
            target = grad_scale + token * outputs.scale.token * width
            micro.dot(like, q + token * inputs.q.token * width, unscaled, sizes.depth, target)


@kernel
def turn_rows(like, rows, width, lanes, depth, factor, by_lanes):  # type: ignore[no-untyped-def]
    """The micro-kernel ``turn`` for rows that lie side by side."""
    micro.turn(like, rows, width, lanes.ctypes.data, depth, factor, rows, by_lanes)


@kernel
def scatter(like, weights, count, rows, row_width, base, stride, slots):  # type: ignore[no-untyped-def]
    """The micro-kernel of that name, compiled once for its two uses."""
    micro.scatter(like, weights, count, rows, row_width, base, stride, slots, row_width)


@kernel
def load_levels(like, order, start, batch, head, inputs, table, depth, state):  # type: ignore[no-untyped-def]
    """Log-sum-exps in units of log 2, and δ = out·dout − dlse, of a tile."""
    width = micro.size_of(like)
    out, lse = rows_at(like, inputs.out, batch, head), rows_at(like, inputs.lse, batch, head)
    grad_lse = rows_at(like, inputs.grad_lse, batch, head)
    for lane in range(TILE):
        if order[start + lane] >= 0:
            micro.fetch(like, out + order[start + lane] * inputs.out.token * width, depth)
    for lane in range(TILE):
        token = order[start + lane]
        micro.store(like, state.levels, lane, type(like)(HIGHEST))
        micro.store(like, state.delta, lane, like * 0)
        if token < 0:
            continue
        level = micro.load(like, lse, token * inputs.lse.token)
        if level == -np.inf:
            continue
        micro.store(like, state.levels, lane, level * type(like)(LOG2_E))
        gradient = state.gradient_rows + lane * table.value_width * width
        micro.dot(like, out + token * inputs.out.token * width, gradient, depth, state.delta + lane * width)
        if inputs.grad_lse.address != 0:
            total = micro.load(like, state.delta, lane)
            total -= micro.load(like, grad_lse, token * inputs.grad_lse.token)
            micro.store(like, state.delta, lane, total)


@kernel
def add_bias(like, score_gradients, count, places, group, base, stride):  # type: ignore[no-untyped-def]
    """Add the score gradients of all lanes to the bias column of each key's row."""
    for at in range(count):
        total = like * 0
        for lane in range(LANES):
            total += micro.load(like, score_gradients, at * LANES + lane)
        column = places[group, at] * stride
        micro.store(like, base, column, micro.load(like, base, column) + total)


@task
def add_runs(like, address):  # type: ignore[no-untyped-def]
    """Sum the tables of all runs into dk and dv of the shared keys, a range of keys at a time."""
    words = words_at(address)
    runs, sizes, outputs, n_keys = runs_at(words), sizes_at(words), outputs_at(words), words[AT.n_keys]
    table, width = outputs.table, micro.size_of(like)
    ranges = (n_keys + KEYS_AT_ONCE - 1) // KEYS_AT_ONCE
    while True:
        number = micro.take_ticket(address + 8 * AT.ranges)
        if number >= sizes.batch * sizes.key_heads * ranges:
            break
        first = number % ranges * KEYS_AT_ONCE
        last = min(n_keys, first + KEYS_AT_ONCE)
        key_head, b = number // ranges % sizes.key_heads, number // (ranges * sizes.key_heads)
        grad_k, grad_v = rows_at(like, outputs.k, b, key_head), rows_at(like, outputs.v, b, key_head)
        for run in range(len(runs.tiles) - 1):
            low, high = runs.indptr[run], runs.indptr[run + 1]
            shared = runs.keys[low:high]
            base = rows_of_run(like, Item(run, b, 0, 0, 0, 0), key_head, runs, table, sizes)
            for slot in range(place_of(shared, first), place_of(shared, last)):
                k_row = grad_k + shared[slot] * outputs.k.token * width
                v_row = grad_v + shared[slot] * outputs.v.token * width
                if runs.begins[low + slot]:
                    fill(like, k_row, sizes.depth, like * 0)
                    fill(like, v_row, sizes.value_depth, like * 0)
                source = base + slot * row_of(table) * width
                micro.add_row(like, source, sizes.depth, k_row)
                micro.add_row(like, source + table.key_width * width, sizes.value_depth, v_row)
    return 1


@kernel
def place_of(ascending, number):  # type: ignore[no-untyped-def]
    """How many of ascending numbers are smaller."""
    low, high = 0, len(ascending)
    while low < high:
        middle = (low + high) // 2
        if ascending[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low
