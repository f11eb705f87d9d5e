"""The micro-kernels: the vector loops that carry all the arithmetic of attention.

Queries are the vector lanes. A group of ``LANES`` queries meets a list of keys, whose rows lie anywhere; a
matrix "by lanes" holds one row of ``LANES`` elements for each key of the list, or for each channel. Numbers
of the other operand are broadcast, so that nothing is summed across lanes. Lists are padded to a
multiple of ``KEY_BLOCK`` with keys that no lane sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from geoattn.backends.cpu.emitted import KEY_BLOCK, TILE, emitted, list_rows
from geoattn.backends.cpu.vector_ir import Value, Vectors, index

#: the operands of :class:`_Rows` or :class:`_Numbers`, or None without a bias for every pair
Pairs = tuple[Value, ...] | None


def _dot_products(
    v: Vectors, rows: Sequence[Value], columns: Sequence[Value], depth: Value
) -> list[list[Value]]:
    """``sum_d rows[r][d] * columns[c][d, lanes]``: for each row, the vectors of a row by lanes for each c."""
    width = len(columns) * v.per_row
    with v.loop(index(0), depth, 1, [v.constant(0.0)] * (len(rows) * width)) as loop:
        at = v.builder.mul(loop.counter, index(v.lanes))
        column = [v.load(v.at(c, at, index(i * v.width))) for c in columns for i in range(v.per_row)]
        for r, row in enumerate(rows):
            element = v.broadcast(v.at(row, loop.counter))
            for i in range(width):
                slot = r * width + i
                loop.carry[slot] = v.multiply_add(element, column[i], loop.values[slot])
    return [loop.values[r * width : (r + 1) * width] for r in range(len(rows))]


def _keys_at_once(v: Vectors, groups: int) -> tuple[int, ...]:
    """Numbers of keys whose dot products fit the registers, falling; the last divides ``KEY_BLOCK``."""
    most = v.accumulators // (v.per_row * groups)
    return (12, 4) if most >= 12 else (6, 2) if most >= 6 else (4,) if most >= 4 else (2,)


def _row(v: Vectors, matrix: Value, row: Value, vector: int, lane: Value = None) -> Value:
    """Pointer to one vector of one row of a matrix by lanes, or to one lane of it."""
    place = v.at(matrix, v.builder.mul(row, index(v.lanes)), index(vector * v.width))
    return place if lane is None else v.at(place, lane)


class _Groups:
    """Where the operands of neighboring groups of lanes lie: matrices, and lists of ``capacity``."""

    def __init__(self, v: Vectors, count: int, capacity: Value) -> None:
        self.v, self.count, self.capacity = v, count, capacity

    def matrices(self, address: Value, rows: Value) -> list[Value]:
        """Pointers to the matrix by lanes of each group, of so many rows."""
        return self._apart(self.v.pointer(address), self.v.builder.mul(rows, index(self.v.lanes)))

    def lists(self, address: Value) -> list[Value]:
        """Pointers to the int32 list of each group."""
        return self._apart(self.v.pointer(address, ir.IntType(32)), self.capacity)

    def _apart(self, first: Value, pitch: Value) -> list[Value]:
        return [self.v.at(first, self.v.builder.mul(pitch, index(g))) for g in range(self.count)]


class _Rows:
    """The bias of each pair of a key and a lane, a row for each key.

    Operands are addresses: ``entries`` names the row of ``rows [n, TILE]`` for each place among the tokens.
    """

    def __init__(self, v: Vectors, entries: Value, rows: Value) -> None:
        self.v, self.entries, self.rows = v, v.pointer(entries, ir.IntType(32)), v.pointer(rows)

    def row(self, place: Value) -> Value:
        """Pointer to the row of a key, at the first lane of the groups."""
        entry = self.v.load_index(self.v.at(self.entries, place))
        return self.v.at(self.rows, self.v.builder.mul(entry, index(TILE)))

    def at(self, row: Value, vector: int) -> Value:
        """The biases of one vector of lanes, counted through the groups."""
        return self.v.load(self.v.at(row, index(vector * self.v.width)))

    def add(self, row: Value, gradient: Value) -> None:
        """Add gradients of scores, a row of lanes, to those of the biases."""
        for vector in range(self.v.per_row):
            place = self.v.at(row, index(vector * self.v.width))
            more = self.v.load(self.v.at(gradient, index(vector * self.v.width)))
            self.v.store(self.v.builder.fadd(self.v.load(place), more), place)


class _Numbers(_Rows):
    """The same where rows hold int32 numbers, under which a table holds the biases.

    ``offsets`` says where in the table each lane's own part begins.
    """

    def __init__(self, v: Vectors, entries: Value, rows: Value, offsets: Value, table: Value) -> None:
        super().__init__(v, entries, rows)
        word = ir.IntType(32)
        self.rows, self.offsets, self.table = (
            v.pointer(rows, word),
            v.pointer(offsets, word),
            v.pointer(table),
        )

    def at(self, row: Value, vector: int) -> Value:
        lane = index(vector * self.v.width)
        numbers = self.v.load_numbers(self.v.at(row, lane))
        offsets = self.v.load_numbers(self.v.at(self.offsets, lane))
        return self.v.looked_up(self.table, self.v.builder.add(numbers, offsets))

    def add(self, row: Value, gradient: Value) -> None:
        b = self.v.builder
        for lane in map(index, range(self.v.lanes)):  # one by one, since lanes may meet in one number
            offset = self.v.load_index(self.v.at(self.offsets, lane))
            place = self.v.at(self.table, b.add(self.v.load_index(self.v.at(row, lane)), offset))
            b.store(b.fadd(b.load(place), b.load(self.v.at(gradient, lane))), place)


def _pair_bias(v: Vectors, pairs: Pairs) -> _Rows | None:
    """The bias for every pair that a kernel is given, if it is."""
    if pairs is None:
        return None
    return _Rows(v, *pairs) if len(pairs) == 2 else _Numbers(v, *pairs)


def _scores(groups: int) -> Any:
    """The kernel for one group of lanes, or for two that see the same keys."""

    def scores(
        v: Vectors,
        base: Value,
        stride: Value,
        tokens: Value,
        places: Value,
        count: Value,
        queries: Value,
        depth: Value,
        bias: Value,
        masks: Value,
        capacity: Value,
        scores: Value,
        maxima: Value,
        pairs: Pairs,
    ) -> None:
        """scores[j, :] = k[tokens[j]] · queries + bias[j], −inf where unseen; maxima[:]: running maximum.

        ``places`` are those of the keys in the tile's list, by which their biases for every pair are found.
        """
        b = v.builder
        pair_bias = _pair_bias(v, pairs)
        base, bias = v.pointer(base), v.pointer(bias)
        tokens, places = (v.pointer(a, ir.IntType(32)) for a in (tokens, places))
        lanes = _Groups(v, groups, capacity)
        columns, masks = lanes.matrices(queries, depth), lanes.lists(masks)
        results, maxima = lanes.matrices(scores, capacity), lanes.matrices(maxima, index(1))
        hidden = v.constant(float("-inf"))
        tops = [v.at(top, index(i * v.width)) for top in maxima for i in range(v.per_row)]
        running = [v.load(top) for top in tops]
        for keys, block in v.strips(count, _keys_at_once(v, groups), running):
            rows = list_rows(v, base, stride, tokens, keys.counter, block)
            for r, row in enumerate(_dot_products(v, rows, columns, depth)):
                key = b.add(keys.counter, index(r))
                offset = v.broadcast(v.at(bias, key))
                numbered = pair_bias and pair_bias.row(v.load_index(v.at(places, key)))
                for i, score in enumerate(row):
                    group, vector = divmod(i, v.per_row)
                    bits = b.load(v.at(masks[group], key))
                    # + 0 * score: only a bias hides, a product that is −∞ is not a number
                    score = b.fadd(v.multiply_add(score, v.constant(0.0), score), offset)
                    if pair_bias is not None:
                        score = b.fadd(score, pair_bias.at(numbered, i))
                    seen = b.select(v.visible(bits, vector), score, hidden)
                    v.store(seen, _row(v, results[group], key, vector))
                    keys.carry[i] = v.maximum(seen, keys.carry[i])
            running = keys.values
        for top, value in zip(tops, running, strict=True):
            v.store(value, top)

    return emitted(scores)


def _emit_exponentials(v: Vectors, scores: Value, count: Value, maxima: Value, sums: Value) -> None:
    """scores[j, :] ← 2^(scores[j, :] − maxima); sums[:] gains them."""
    b = v.builder
    scores, maxima, sums = (v.pointer(a) for a in (scores, maxima, sums))
    tops = [v.load(v.at(maxima, index(i * v.width))) for i in range(v.per_row)]
    # four vectors at once: their exponentials are independent and overlap, more would leave the registers
    several = max(1, 4 // v.per_row)
    running = [v.load(v.at(sums, index(i * v.width))) for i in range(v.per_row)]
    with v.loop(index(0), count, several, running) as keys:
        for r in range(several):
            for i in range(v.per_row):
                place = _row(v, scores, b.add(keys.counter, index(r)), i)
                power = v.exp2(b.fsub(v.load(place), tops[i]))
                v.store(power, place)
                keys.carry[i] = b.fadd(keys.carry[i], power)
    for i, value in enumerate(keys.values):
        v.store(value, v.at(sums, index(i * v.width)))


def _emit_gather(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    weights: Value,
    sums: Value,
    depth: Value,
) -> None:
    """sums[l, 0:depth] += sum_j weights[j, l] * x[tokens[j], 0:depth]; depth in whole vectors.

    Here and in ``scatter`` the channels are the vector lanes. ``sums`` has rows of ``depth``.
    """
    b = v.builder
    base, weights, sums = (v.pointer(a) for a in (base, weights, sums))
    tokens = v.pointer(tokens, ir.IntType(32))
    for strip, wide in v.strips(b.udiv(depth, index(v.width)), _widths(v)):
        channel = b.mul(strip.counter, index(v.width))
        for first, several in v.strips(index(v.lanes), (min(8, v.accumulators * 2 // 3 // wide),)):
            places = [
                v.at(sums, b.mul(b.add(first.counter, index(r)), depth), channel, index(c * v.width))
                for r in range(several)
                for c in range(wide)
            ]
            with v.loop(index(0), count, 1, [v.load(place) for place in places]) as keys:
                (row,) = list_rows(v, base, stride, tokens, keys.counter, 1)
                values = [v.load(v.at(row, channel, index(c * v.width))) for c in range(wide)]
                at = b.add(b.mul(keys.counter, index(v.lanes)), first.counter)
                for r in range(several):
                    weight = v.broadcast(v.at(weights, at, index(r)))
                    for c in range(wide):
                        slot = r * wide + c
                        keys.carry[slot] = v.multiply_add(weight, values[c], keys.values[slot])
            for place, value in zip(places, keys.values, strict=True):
                v.store(value, place)


def _widths(v: Vectors) -> tuple[int, ...]:
    """Numbers of neighboring vectors of channels that are worked on together, falling to 1."""
    return (2, 1) if v.accumulators == 12 else (4, 2, 1)


def _probabilities(groups: int) -> Any:
    """The kernel for one group of lanes, or for two that see the same keys."""

    def probabilities(
        v: Vectors,
        base: Value,
        stride: Value,
        tokens: Value,
        places: Value,
        count: Value,
        queries: Value,
        depth: Value,
        bias: Value,
        masks: Value,
        capacity: Value,
        lse: Value,
        probabilities: Value,
        pairs: Pairs,
    ) -> None:
        """probabilities[j, :] = 2^(k[tokens[j]] · queries + bias[j] − lse), 0 where unseen.

        ``places`` as in ``scores``.
        """
        b = v.builder
        pair_bias = _pair_bias(v, pairs)
        base, bias = v.pointer(base), v.pointer(bias)
        tokens, places = (v.pointer(a, ir.IntType(32)) for a in (tokens, places))
        lanes = _Groups(v, groups, capacity)
        columns, masks = lanes.matrices(queries, depth), lanes.lists(masks)
        results, levels = lanes.matrices(probabilities, capacity), lanes.matrices(lse, index(1))
        for keys, block in v.strips(count, _keys_at_once(v, groups)):
            rows = list_rows(v, base, stride, tokens, keys.counter, block)
            for r, row in enumerate(_dot_products(v, rows, columns, depth)):
                key = b.add(keys.counter, index(r))
                offset = v.broadcast(v.at(bias, key))
                numbered = pair_bias and pair_bias.row(v.load_index(v.at(places, key)))
                for i, score in enumerate(row):
                    group, vector = divmod(i, v.per_row)
                    if pair_bias is not None:
                        score = b.fadd(score, pair_bias.at(numbered, i))
                    top = v.load(v.at(levels[group], index(vector * v.width)))
                    bits = b.load(v.at(masks[group], key))
                    power = v.exp2(b.fsub(b.fadd(score, offset), top))
                    seen = b.select(v.visible(bits, vector), power, v.constant(0.0))
                    v.store(seen, _row(v, results[group], key, vector))

    return emitted(probabilities)


def _score_gradients(groups: int) -> Any:
    """The kernel for one group of lanes, or for two that see the same keys."""

    def score_gradients(
        v: Vectors,
        base: Value,
        stride: Value,
        tokens: Value,
        count: Value,
        out_gradients: Value,
        depth: Value,
        probabilities: Value,
        capacity: Value,
        delta: Value,
        gradients: Value,
    ) -> None:
        """gradients[j, :] = probabilities[j, :] * (v[tokens[j]] · out_gradients − delta)."""
        b = v.builder
        base = v.pointer(base)
        tokens = v.pointer(tokens, ir.IntType(32))
        lanes = _Groups(v, groups, capacity)
        columns = lanes.matrices(out_gradients, depth)
        weights, results = (lanes.matrices(a, capacity) for a in (probabilities, gradients))
        deltas = lanes.matrices(delta, index(1))
        for keys, block in v.strips(count, _keys_at_once(v, groups)):
            rows = list_rows(v, base, stride, tokens, keys.counter, block)
            for r, row in enumerate(_dot_products(v, rows, columns, depth)):
                key = b.add(keys.counter, index(r))
                for i, product in enumerate(row):
                    group, vector = divmod(i, v.per_row)
                    excess = b.fsub(product, v.load(v.at(deltas[group], index(vector * v.width))))
                    weight = v.load(_row(v, weights[group], key, vector))
                    v.store(b.fmul(weight, excess), _row(v, results[group], key, vector))

    return emitted(score_gradients)


def _emit_scatter(
    v: Vectors,
    weights: Value,
    count: Value,
    rows: Value,
    row_stride: Value,
    base: Value,
    stride: Value,
    slots: Value,
    depth: Value,
) -> None:
    """x[slots[j], 0:depth] += sum_l weights[j, l] * rows[l, 0:depth]; depth in whole vectors."""
    b = v.builder
    weights, rows, base = (v.pointer(a) for a in (weights, rows, base))
    slots = v.pointer(slots, ir.IntType(32))
    for strip, wide in v.strips(b.udiv(depth, index(v.width)), _widths(v)):
        channel = b.mul(strip.counter, index(v.width))
        blocks = (2 * KEY_BLOCK, KEY_BLOCK)[2 * KEY_BLOCK * wide > v.accumulators :]
        for key, several in v.strips(count, blocks):
            start = [v.constant(0.0)] * (several * wide)
            with v.loop(index(0), index(v.lanes), 1, start) as lane:
                at = b.add(b.mul(lane.counter, row_stride), channel)
                row = [v.load(v.at(rows, at, index(c * v.width))) for c in range(wide)]
                for r in range(several):
                    weight = v.broadcast(_row(v, weights, b.add(key.counter, index(r)), 0, lane.counter))
                    for c in range(wide):
                        slot = r * wide + c
                        lane.carry[slot] = v.multiply_add(weight, row[c], lane.values[slot])
            for r, target in enumerate(list_rows(v, base, stride, slots, key.counter, several)):
                for c in range(wide):
                    place = v.at(target, channel, index(c * v.width))
                    v.store(b.fadd(v.load(place), lane.values[r * wide + c]), place)


def _emit_add_to_pairs(v: Vectors, gradients: Value, tokens: Value, count: Value, pairs: Pairs) -> None:
    """Add gradients[j, :] to those of the biases of key tokens[j], of a group of lanes; nothing without."""
    target = _pair_bias(v, pairs)
    if target is None:
        return
    gradients, tokens = v.pointer(gradients), v.pointer(tokens, ir.IntType(32))
    with v.loop(index(0), count, 1) as keys:
        row = target.row(v.load_index(v.at(tokens, keys.counter)))
        target.add(row, _row(v, gradients, keys.counter, 0))


scores, scores_of_two = _scores(1), _scores(2)
exponentials = emitted(_emit_exponentials)
gather = emitted(_emit_gather)
probabilities, probabilities_of_two = _probabilities(1), _probabilities(2)
score_gradients, score_gradients_of_two = _score_gradients(1), _score_gradients(2)
scatter = emitted(_emit_scatter)
add_to_pairs = emitted(_emit_add_to_pairs)
