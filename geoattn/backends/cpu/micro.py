"""The micro-kernels: the vector loops that carry all the arithmetic of attention.

Queries are the vector lanes. A group of ``LANES`` queries meets a list of keys, whose rows lie anywhere; a
matrix "by lanes" holds one row of ``LANES`` elements for each key of the list, or for each channel. Numbers
of the other operand are broadcast, so that nothing is summed across lanes. Lists are padded to a
multiple of ``KEY_BLOCK`` with keys that no lane sees.

All addresses are integers, strides count elements, and lists of tokens and masks are int32. The
first argument, ``like``, is any value of the element type (float32 or float64): numba compiles one
version of each kernel for each.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numba.extending
import numpy as np
from llvmlite import ir
from numba import types

from geoattn.backends.cpu.vector_ir import INDEX, Value, Vectors, host_machine, index

MACHINE = host_machine()
#: queries that run side by side
LANES = MACHINE.lanes
#: queries of a tile
TILE = 32
#: lists of keys are padded to a multiple of this
KEY_BLOCK = 4


def intrinsic(function: Callable[..., Any]) -> Any:
    """``numba.extending.intrinsic`` without a type: it changes the arguments of what it decorates."""
    return numba.extending.intrinsic(function)


#: the operands of :class:`_Rows` or :class:`_Numbers`, or None without a bias for every pair
Pairs = tuple[Value, ...] | None


def _kernel(emit: Callable[..., None]) -> Any:
    """The numba function ``f(like, integer, …)`` whose body ``emit(vectors, value, …)`` writes.

    An argument may be None or a tuple of integers, and the emitter gets None or a tuple of values.
    """

    def typed(typing_context: Any, like: Any, *arguments: Any) -> Any:
        kept = (types.NoneType, types.BaseTuple)
        kinds = [a if isinstance(a, kept) else types.intp for a in arguments]
        signature = types.void(like, *kinds)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            element = ir.DoubleType() if signature.args[0] == types.float64 else ir.FloatType()
            given = (
                None
                if isinstance(kind, types.NoneType)
                else tuple(builder.extract_value(value, i) for i in range(len(kind)))
                if isinstance(kind, types.BaseTuple)
                else value
                for kind, value in zip(signature.args[1:], values[1:], strict=True)
            )
            emit(Vectors(builder, element, MACHINE), *given)
            return context.get_dummy_value()

        return signature, generate

    typed.__name__ = typed.__qualname__ = emit.__name__
    typed.__doc__ = emit.__doc__
    # numba reads the argument names: those of the emitter, less its vectors.
    ours = list(inspect.signature(typed).parameters.values())[:2]
    theirs = list(inspect.signature(emit).parameters.values())[1:]
    typed.__signature__ = inspect.Signature([*ours, *theirs])  # type: ignore[attr-defined]
    kernel = intrinsic(typed)
    kernel.emit = emit  # for other machines than this one, in tests
    return kernel


def _list_rows(
    v: Vectors, base: Value, stride: Value, tokens: Value, first: Value, count: int
) -> list[Value]:
    """Pointers to the rows of ``count`` listed tokens."""
    listed = [v.load_index(v.at(tokens, first, index(r))) for r in range(count)]
    return [v.at(base, v.builder.mul(token, stride)) for token in listed]


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
            rows = _list_rows(v, base, stride, tokens, keys.counter, block)
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

    return _kernel(scores)


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
                (row,) = _list_rows(v, base, stride, tokens, keys.counter, 1)
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
            rows = _list_rows(v, base, stride, tokens, keys.counter, block)
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

    return _kernel(probabilities)


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
            rows = _list_rows(v, base, stride, tokens, keys.counter, block)
            for r, row in enumerate(_dot_products(v, rows, columns, depth)):
                key = b.add(keys.counter, index(r))
                for i, product in enumerate(row):
                    group, vector = divmod(i, v.per_row)
                    excess = b.fsub(product, v.load(v.at(deltas[group], index(vector * v.width))))
                    weight = v.load(_row(v, weights[group], key, vector))
                    v.store(b.fmul(weight, excess), _row(v, results[group], key, vector))

    return _kernel(score_gradients)


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
            for r, target in enumerate(_list_rows(v, base, stride, slots, key.counter, several)):
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


def _emit_pack(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    depth: Value,
    packed: Value,
    width: Value,
) -> None:
    """packed[j, 0:depth] = x[tokens[j], 0:depth]; packed has rows of ``width``.

    Rows to come are asked of memory early: they lie too far apart for the processor to guess them.
    """
    b = v.builder
    base, packed = v.pointer(base), v.pointer(packed)
    tokens = v.pointer(tokens, ir.IntType(32))
    with v.loop(index(0), count, 1) as keys:
        later = b.add(keys.counter, index(16))
        later = b.select(b.icmp_signed("<", later, count), later, keys.counter)
        (row,) = _list_rows(v, base, stride, tokens, keys.counter, 1)
        (later_row,) = _list_rows(v, base, stride, tokens, later, 1)
        target = v.at(packed, b.mul(keys.counter, width))
        for channel, size in v.strips(depth, (v.width, 1)):
            if size > 1:
                v.prefetch(v.at(later_row, channel.counter))
                v.store(v.load(v.at(row, channel.counter)), v.at(target, channel.counter))
            else:
                b.store(b.load(v.at(row, channel.counter)), v.at(target, channel.counter))


def _emit_turn(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    depth: Value,
    factor: Value,
    zeros: Value,
    by_lanes: Value,
) -> None:
    """by_lanes[group, d, l] = factor * x[tokens[group, l], d] for a tile; 0 where the token is negative.

    ``factor`` is the address of a number, ``zeros`` that of ``depth`` zeros.
    """
    b = v.builder
    base, zeros, by_lanes = (v.pointer(a) for a in (base, zeros, by_lanes))
    tokens = v.pointer(tokens, ir.IntType(32))
    times = v.broadcast(v.pointer(factor))
    time = b.load(v.pointer(factor))
    for group in range(TILE // v.lanes):
        matrix = v.at(by_lanes, b.mul(depth, index(group * v.lanes)))
        for vector in range(v.per_row):
            first = group * v.lanes + vector * v.width
            listed = [v.load_index(v.at(tokens, index(first + lane))) for lane in range(v.width)]
            rows = [
                b.select(b.icmp_signed("<", token, index(0)), zeros, v.at(base, b.mul(token, stride)))
                for token in listed
            ]
            for channel, several in v.strips(depth, (v.width, 1)):
                target = v.at(matrix, b.mul(channel.counter, index(v.lanes)), index(vector * v.width))
                places = [v.at(row, channel.counter) for row in rows]
                if several == 1:
                    for lane, place in enumerate(places):
                        b.store(b.fmul(b.load(place), time), v.at(target, index(lane)))
                else:
                    block = v.transposed([b.fmul(v.load(place), times) for place in places])
                    for d, column in enumerate(block):
                        v.store(column, v.at(target, index(d * v.lanes)))


def _emit_scale_row(v: Vectors, source: Value, factor: Value, depth: Value, target: Value) -> None:
    """target[0:depth] = factor * source[0:depth]; ``factor`` is the address of a number."""
    b = v.builder
    source, target = v.pointer(source), v.pointer(target)
    times = v.broadcast(v.pointer(factor))
    time = b.load(v.pointer(factor))
    for channel, several in v.strips(depth, (v.width, 1)):
        place, result = v.at(source, channel.counter), v.at(target, channel.counter)
        if several == 1:
            b.store(b.fmul(b.load(place), time), result)
        else:
            v.store(b.fmul(v.load(place), times), result)


def _emit_add_row(v: Vectors, source: Value, depth: Value, target: Value) -> None:
    """target[0:depth] += source[0:depth]."""
    b = v.builder
    source, target = v.pointer(source), v.pointer(target)
    for channel, several in v.strips(depth, (v.width, 1)):
        place, result = v.at(source, channel.counter), v.at(target, channel.counter)
        if several == 1:
            b.store(b.fadd(b.load(result), b.load(place)), result)
        else:
            v.store(b.fadd(v.load(result), v.load(place)), result)


def _emit_dot(v: Vectors, first: Value, second: Value, depth: Value, result: Value) -> None:
    """result[0] = sum_d first[d] * second[d]."""
    b = v.builder
    first, second, result = v.pointer(first), v.pointer(second), v.pointer(result)
    zero = ir.Constant(v.element, 0.0)
    sums: list[Value] = [v.constant(0.0), zero]
    for channel, several in v.strips(depth, (v.width, 1), sums):
        left, right = v.at(first, channel.counter), v.at(second, channel.counter)
        if several == 1:
            channel.carry[1] = b.fadd(channel.values[1], b.fmul(b.load(left), b.load(right)))
        else:
            channel.carry[0] = v.multiply_add(v.load(left), v.load(right), channel.values[0])
        vector, rest = channel.values
    for lane in range(v.width):
        rest = b.fadd(rest, b.extract_element(vector, ir.Constant(ir.IntType(32), lane)))
    b.store(rest, result)


def _emit_fetch(v: Vectors, address: Value, depth: Value) -> None:
    """Ask for the cache lines of a row that will be read soon."""
    base = v.pointer(address)
    with v.loop(index(0), depth, 64 // v.element_bytes) as channel:
        v.prefetch(v.at(base, channel.counter))


def _emit_split(
    v: Vectors,
    entries: Value,
    lanes: Value,
    count: Value,
    order: Value,
    ring: Value,
    shift: Value,
    bias: Value,
    capacity: Value,
    tokens: Value,
    listed: Value,
    keys: Value,
    places: Value,
    masks: Value,
    biases: Value,
    counts: Value,
) -> None:
    """Deal entries of a plan out to the groups of lanes; see :func:`geoattn.backends.cpu.lists.list_keys`.

    Keys that both groups of a pair see go to the front of their lists, keys that one sees to the end
    of its list, from the back. The counts are those at the front of each pair, those at the end of
    each group, and that of all keys.
    """
    b = v.builder
    word = ir.IntType(32)
    entries, lanes, order, tokens, listed, keys, places, masks = (
        v.pointer(a, word) for a in (entries, lanes, order, tokens, listed, keys, places, masks)
    )
    biased = b.icmp_unsigned("!=", bias, index(0))
    # without a bias the first element of the results is read in its place, and not used
    bias, biases, counts = (
        v.pointer(b.select(biased, bias, biases)),
        v.pointer(biases),
        v.pointer(counts, INDEX),
    )
    groups = TILE // v.lanes
    zero = index(0)
    with v.loop(zero, count, 1, [zero] * (2 + groups // 2 + groups)) as loop:
        n_keys, ring_end, *filled = loop.values
        position = v.load_index(v.at(entries, loop.counter))
        beyond = b.icmp_signed(">=", position, ring_end)
        with b.if_then(beyond, likely=False):
            begun = b.mul(b.add(b.sdiv(position, ring), index(1)), ring)
            leave = b.block
        end = b.phi(INDEX)
        end.add_incoming(begun, leave)
        end.add_incoming(ring_end, beyond.parent)
        moved = b.add(position, shift)
        moved = b.select(b.icmp_signed(">=", moved, end), b.sub(moved, ring), moved)
        token = b.load(v.at(order, moved))
        place = b.select(biased, b.sext(token, INDEX), zero)
        offset = b.select(biased, b.load(v.at(bias, place)), ir.Constant(v.element, 0.0))
        hidden = b.fcmp_ordered("==", offset, ir.Constant(v.element, float("-inf")))
        # a finite bias stays finite, however large
        offset = _bounded(v, b.fmul(offset, ir.Constant(v.element, math.log2(math.e))), offset)
        seen = b.select(hidden, ir.Constant(word, 0), b.load(v.at(lanes, loop.counter)))
        b.store(token, v.at(tokens, n_keys))
        b.store(b.trunc(loop.counter, word), v.at(listed, n_keys))
        for pair in range(groups // 2):
            bits, used = [], []
            for group in (2 * pair, 2 * pair + 1):
                shifted = b.lshr(seen, ir.Constant(word, group * v.lanes))
                bits.append(b.and_(shifted, ir.Constant(word, (1 << v.lanes) - 1)))
                used.append(b.icmp_unsigned("!=", bits[-1], ir.Constant(word, 0)))
            both, front = b.and_(*used), filled[pair]
            loop.carry[2 + pair] = b.add(front, b.zext(both, INDEX))
            for group in (0, 1):
                slot = groups // 2 + 2 * pair + group
                back = b.sub(b.sub(capacity, index(1)), filled[slot])
                at = b.add(b.select(both, front, back), b.mul(capacity, index(2 * pair + group)))
                b.store(token, v.at(keys, at))
                b.store(b.trunc(n_keys, word), v.at(places, at))
                b.store(bits[group], v.at(masks, at))
                b.store(offset, v.at(biases, at))
                only = b.zext(b.and_(used[group], b.not_(both)), INDEX)
                loop.carry[2 + slot] = b.add(filled[slot], only)
        loop.carry[0] = b.add(n_keys, b.zext(b.not_(hidden), INDEX))
        loop.carry[1] = end
    for place, value in enumerate([*loop.values[2:], loop.values[0]]):
        b.store(value, v.at(counts, index(place)))


def _bounded(v: Vectors, product: Value, number: Value) -> Value:
    """A multiple of a number, no further than the largest one if the number is finite."""
    b, most = v.builder, float(np.finfo(np.float64 if v.is_double else np.float32).max)
    high, low, infinite = (ir.Constant(v.element, x) for x in (most, -most, math.inf))
    product = b.select(b.fcmp_ordered(">", product, high), high, product)
    product = b.select(b.fcmp_ordered("<", product, low), low, product)
    return b.select(b.fcmp_ordered("==", number, infinite), infinite, product)


scores, scores_of_two = _scores(1), _scores(2)
exponentials = _kernel(_emit_exponentials)
gather = _kernel(_emit_gather)
probabilities, probabilities_of_two = _probabilities(1), _probabilities(2)
score_gradients, score_gradients_of_two = _score_gradients(1), _score_gradients(2)
scatter = _kernel(_emit_scatter)
add_to_pairs = _kernel(_emit_add_to_pairs)
pack = _kernel(_emit_pack)
split = _kernel(_emit_split)
turn = _kernel(_emit_turn)
scale_row = _kernel(_emit_scale_row)
add_row = _kernel(_emit_add_row)
dot = _kernel(_emit_dot)
fetch = _kernel(_emit_fetch)


@intrinsic
def load(typing_context: Any, like: Any, base: Any, offset: Any) -> Any:
    """The element at an address and an offset counted in elements."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        element = context.get_value_type(signature.return_type)
        base, offset = values[1:]
        return builder.load(builder.gep(builder.inttoptr(base, element.as_pointer()), [offset]))

    return like(like, types.intp, types.intp), generate


@intrinsic
def store(typing_context: Any, like: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one element at an address and an offset counted in elements."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        _, base, offset, value = values
        builder.store(value, builder.gep(builder.inttoptr(base, value.type.as_pointer()), [offset]))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp, like), generate


@intrinsic
def pointer(typing_context: Any, like: Any, address: Any) -> Any:
    """A pointer to elements of a type from an address."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        return builder.inttoptr(values[1], context.get_value_type(signature.return_type))

    return types.CPointer(like)(like, types.intp), generate  # type: ignore[no-untyped-call]


@intrinsic
def size_of(typing_context: Any, like: Any) -> Any:
    """Bytes of an element."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        return index(like.bitwidth // 8)

    return types.intp(like), generate


@intrinsic
def take_ticket(typing_context: Any, address: Any) -> Any:
    """Add 1 to the shared int64 counter at an address; return what it was before."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        counter = builder.inttoptr(values[0], INDEX.as_pointer())
        return builder.atomic_rmw("add", counter, index(1), "monotonic")

    return types.int64(types.intp), generate
