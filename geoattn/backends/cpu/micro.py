"""The micro-kernels: the vector loops that carry all the arithmetic of attention.

Queries are the vector lanes. A group of ``LANES`` queries meets a list of gathered keys; a matrix
"by lanes" holds one row of ``LANES`` elements for each key of the list, or for each channel. Numbers
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


def _kernel(emit: Callable[..., None]) -> Any:
    """The numba function ``f(like, integer, …)`` whose body ``emit(vectors, value, …)`` writes."""

    def typed(typing_context: Any, like: Any, *arguments: Any) -> Any:
        signature = types.void(like, *[types.intp] * len(arguments))

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            element = ir.DoubleType() if signature.args[0] == types.float64 else ir.FloatType()
            emit(Vectors(builder, element, MACHINE), *values[1:])
            return context.get_dummy_value()

        return signature, generate

    typed.__name__ = typed.__qualname__ = emit.__name__
    typed.__doc__ = emit.__doc__
    # numba reads the argument names: those of the emitter, less its vectors.
    ours = list(inspect.signature(typed).parameters.values())[:2]
    theirs = list(inspect.signature(emit).parameters.values())[1:]
    typed.__signature__ = inspect.Signature([*ours, *theirs])  # type: ignore[attr-defined]
    return intrinsic(typed)


def _list_rows(
    v: Vectors, base: Value, stride: Value, tokens: Value, first: Value, count: int
) -> list[Value]:
    """Pointers to the rows of ``count`` listed tokens."""
    listed = [v.load_index(v.at(tokens, first, index(r))) for r in range(count)]
    return [v.at(base, v.builder.mul(token, stride)) for token in listed]


def _dot_products(v: Vectors, rows: Sequence[Value], columns: Value, depth: Value) -> list[list[Value]]:
    """``sum_d rows[r][d] * columns[d, lanes]``: for each row, the vectors of a row by lanes."""
    sums = [v.constant(0.0)] * (len(rows) * v.per_row)
    with v.loop(index(0), depth, 1, sums) as loop:
        at = v.builder.mul(loop.counter, index(v.lanes))
        column = [v.load(v.at(columns, at, index(i * v.width))) for i in range(v.per_row)]
        for r, row in enumerate(rows):
            element = v.broadcast(v.at(row, loop.counter))
            for i in range(v.per_row):
                slot = r * v.per_row + i
                loop.carry[slot] = v.multiply_add(element, column[i], loop.values[slot])
    return [loop.values[r * v.per_row : (r + 1) * v.per_row] for r in range(len(rows))]


def _keys_at_once(v: Vectors) -> tuple[int, ...]:
    """Numbers of keys whose dot products fit the registers, falling; the last divides ``KEY_BLOCK``."""
    most = v.accumulators // v.per_row
    return (12, 4) if most >= 12 else (4,) if most >= 4 else (2,)


def _row(v: Vectors, matrix: Value, row: Value, vector: int, lane: Value = None) -> Value:
    """Pointer to one vector of one row of a matrix by lanes, or to one lane of it."""
    place = v.at(matrix, v.builder.mul(row, index(v.lanes)), index(vector * v.width))
    return place if lane is None else v.at(place, lane)


def _mask(v: Vectors, masks: Value, key: Value) -> Value:
    return v.builder.load(v.at(masks, key))


def _emit_scores(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    queries: Value,
    depth: Value,
    bias: Value,
    masks: Value,
    scores: Value,
    maxima: Value,
) -> None:
    """scores[j, :] = k[tokens[j]] · queries + bias[j], −inf where unseen; maxima[:] their running maximum."""
    b = v.builder
    base, queries, bias, scores, maxima = (v.pointer(a) for a in (base, queries, bias, scores, maxima))
    tokens, masks = (v.pointer(a, ir.IntType(32)) for a in (tokens, masks))
    hidden = v.constant(float("-inf"))
    running = [v.load(v.at(maxima, index(i * v.width))) for i in range(v.per_row)]
    for keys, block in v.strips(count, _keys_at_once(v), running):
        rows = _list_rows(v, base, stride, tokens, keys.counter, block)
        for r, row in enumerate(_dot_products(v, rows, queries, depth)):
            key = b.add(keys.counter, index(r))
            offset, bits = v.broadcast(v.at(bias, key)), _mask(v, masks, key)
            for i, score in enumerate(row):
                seen = b.select(v.visible(bits, i), b.fadd(score, offset), hidden)
                v.store(seen, _row(v, scores, key, i))
                keys.carry[i] = v.maximum(seen, keys.carry[i])
        running = keys.values
    for i, value in enumerate(running):
        v.store(value, v.at(maxima, index(i * v.width)))


def _emit_exponentials(v: Vectors, scores: Value, count: Value, maxima: Value, sums: Value) -> None:
    """scores[j, :] ← 2^(scores[j, :] − maxima); sums[:] gains them."""
    b = v.builder
    scores, maxima, sums = (v.pointer(a) for a in (scores, maxima, sums))
    tops = [v.load(v.at(maxima, index(i * v.width))) for i in range(v.per_row)]
    # Four keys at once: their exponentials are independent and overlap.
    several = 4
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


def _emit_probabilities(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    queries: Value,
    depth: Value,
    bias: Value,
    masks: Value,
    lse: Value,
    probabilities: Value,
) -> None:
    """probabilities[j, :] = 2^(k[tokens[j]] · queries + bias[j] − lse), 0 where unseen."""
    b = v.builder
    base, queries, bias, lse, probabilities = (
        v.pointer(a) for a in (base, queries, bias, lse, probabilities)
    )
    tokens, masks = (v.pointer(a, ir.IntType(32)) for a in (tokens, masks))
    for keys, block in v.strips(count, _keys_at_once(v)):
        rows = _list_rows(v, base, stride, tokens, keys.counter, block)
        for r, row in enumerate(_dot_products(v, rows, queries, depth)):
            key = b.add(keys.counter, index(r))
            offset, bits = v.broadcast(v.at(bias, key)), _mask(v, masks, key)
            for i, score in enumerate(row):
                top = v.load(v.at(lse, index(i * v.width)))
                power = v.exp2(b.fsub(b.fadd(score, offset), top))
                seen = b.select(v.visible(bits, i), power, v.constant(0.0))
                v.store(seen, _row(v, probabilities, key, i))


def _emit_score_gradients(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    out_gradients: Value,
    depth: Value,
    probabilities: Value,
    delta: Value,
    gradients: Value,
) -> None:
    """gradients[j, :] = probabilities[j, :] * (v[tokens[j]] · out_gradients − delta)."""
    b = v.builder
    base, out_gradients, probabilities, delta, gradients = (
        v.pointer(a) for a in (base, out_gradients, probabilities, delta, gradients)
    )
    tokens = v.pointer(tokens, ir.IntType(32))
    for keys, block in v.strips(count, _keys_at_once(v)):
        rows = _list_rows(v, base, stride, tokens, keys.counter, block)
        for r, row in enumerate(_dot_products(v, rows, out_gradients, depth)):
            key = b.add(keys.counter, index(r))
            for i, product in enumerate(row):
                excess = b.fsub(product, v.load(v.at(delta, index(i * v.width))))
                weight = v.load(_row(v, probabilities, key, i))
                v.store(b.fmul(weight, excess), _row(v, gradients, key, i))


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
        for key, several in v.strips(count, (KEY_BLOCK,)):
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
    keys: Value,
    masks: Value,
    biases: Value,
    counts: Value,
) -> None:
    """Deal entries of a plan out to the groups of lanes; see :func:`geoattn.backends.cpu.lists.list_keys`."""
    b = v.builder
    word = ir.IntType(32)
    entries, lanes, order, tokens, keys, masks = (
        v.pointer(a, word) for a in (entries, lanes, order, tokens, keys, masks)
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
    with v.loop(zero, count, 1, [zero] * (groups + 2)) as loop:
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
        offset = b.fmul(offset, ir.Constant(v.element, math.log2(math.e)))
        seen = b.select(hidden, ir.Constant(word, 0), b.load(v.at(lanes, loop.counter)))
        b.store(token, v.at(tokens, n_keys))
        for group in range(groups):
            bits = b.lshr(seen, ir.Constant(word, group * v.lanes))
            bits = b.and_(bits, ir.Constant(word, (1 << v.lanes) - 1))
            at = b.add(filled[group], b.mul(capacity, index(group)))
            b.store(b.trunc(n_keys, word), v.at(keys, at))
            b.store(bits, v.at(masks, at))
            b.store(offset, v.at(biases, at))
            used = b.zext(b.icmp_unsigned("!=", bits, ir.Constant(word, 0)), INDEX)
            loop.carry[2 + group] = b.add(filled[group], used)
        loop.carry[0] = b.add(n_keys, b.zext(b.not_(hidden), INDEX))
        loop.carry[1] = end
    for place, value in enumerate([*loop.values[2:], loop.values[0]]):
        b.store(value, v.at(counts, index(place)))


scores = _kernel(_emit_scores)
exponentials = _kernel(_emit_exponentials)
gather = _kernel(_emit_gather)
probabilities = _kernel(_emit_probabilities)
score_gradients = _kernel(_emit_score_gradients)
scatter = _kernel(_emit_scatter)
pack = _kernel(_emit_pack)
split = _kernel(_emit_split)


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
def take_ticket(typing_context: Any, address: Any) -> Any:
    """Add 1 to the shared int64 counter at an address; return what it was before."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        counter = builder.inttoptr(values[0], INDEX.as_pointer())
        return builder.atomic_rmw("add", counter, index(1), "monotonic")

    return types.int64(types.intp), generate
