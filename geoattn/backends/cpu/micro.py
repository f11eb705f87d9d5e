"""The micro-kernels: seven vector loops that carry all the arithmetic of attention.

Queries are the vector lanes. A group of ``LANES`` queries meets a list of gathered keys; a matrix
"by lanes" holds one row of ``LANES`` elements for each key of the list, or for each channel. Rows of
k and v are read where they lie and broadcast, so nothing is packed, permuted or summed across lanes.
Lists are padded to a multiple of ``KEY_BLOCK`` with keys that no lane sees.

All addresses are integers, strides count elements, and lists of tokens and masks are int32. The
first argument, ``like``, is any value of the element type (float32 or float64): numba compiles one
version of each kernel for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types

from geoattn.backends.cpu.vector_ir import INDEX, Value, Vectors, host_machine, index

MACHINE = host_machine()
#: queries that run side by side
LANES = MACHINE.lanes
#: lists of keys are padded to a multiple of this
KEY_BLOCK = 12


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


def _keys_at_once(v: Vectors) -> int:
    """Keys whose dot products fit the registers; it divides ``KEY_BLOCK``."""
    return min(KEY_BLOCK, v.accumulators // v.per_row)


def _row(v: Vectors, matrix: Value, row: Value, vector: int) -> Value:
    """Pointer to one vector of one row of a matrix by lanes."""
    return v.at(matrix, v.builder.mul(row, index(v.lanes)), index(vector * v.width))


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
    block = _keys_at_once(v)
    running = [v.load(v.at(maxima, index(i * v.width))) for i in range(v.per_row)]
    with v.loop(index(0), count, block, running) as keys:
        rows = _list_rows(v, base, stride, tokens, keys.counter, block)
        for r, row in enumerate(_dot_products(v, rows, queries, depth)):
            key = b.add(keys.counter, index(r))
            offset, bits = v.broadcast(v.at(bias, key)), _mask(v, masks, key)
            for i, score in enumerate(row):
                seen = b.select(v.visible(bits, i), b.fadd(score, offset), hidden)
                v.store(seen, _row(v, scores, key, i))
                keys.carry[i] = v.maximum(seen, keys.carry[i])
    for i, value in enumerate(keys.values):
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
    """sums[d, :] += sum_j x[tokens[j], d] * weights[j, :]."""
    base, weights, sums = (v.pointer(a) for a in (base, weights, sums))
    tokens = v.pointer(tokens, ir.IntType(32))
    most = max(1, 2 * v.accumulators // 3 // v.per_row)
    for d, size in v.strips(depth, sorted({most, min(most, 4), 1}, reverse=True)):
        places = [_row(v, sums, v.builder.add(d, index(r)), i) for r in range(size) for i in range(v.per_row)]
        with v.loop(index(0), count, 1, [v.load(place) for place in places]) as keys:
            weight = [v.load(_row(v, weights, keys.counter, i)) for i in range(v.per_row)]
            (row,) = _list_rows(v, base, stride, tokens, keys.counter, 1)
            for r in range(size):
                element = v.broadcast(v.at(row, d, index(r)))
                for i in range(v.per_row):
                    slot = r * v.per_row + i
                    keys.carry[slot] = v.multiply_add(element, weight[i], keys.values[slot])
        for place, value in zip(places, keys.values, strict=True):
            v.store(value, place)


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
    block = _keys_at_once(v)
    with v.loop(index(0), count, block) as keys:
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
    block = _keys_at_once(v)
    with v.loop(index(0), count, block) as keys:
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
    """x[slots[j], 0:depth] += sum_l weights[j, l] * rows[l, 0:depth]; depth a multiple of the vector width.

    The one kernel with channels as its vector lanes: here the queries are summed over.
    """
    b = v.builder
    weights, rows, base = (v.pointer(a) for a in (weights, rows, base))
    slots = v.pointer(slots, ir.IntType(32))
    vectors = b.udiv(depth, index(v.width))
    for first, wide in v.strips(vectors, (4, 2, 1)):
        channel = b.mul(first, index(v.width))
        for key, several in v.strips(count, (max(1, v.accumulators // wide // 1), 1)):
            start = [v.constant(0.0)] * (several * wide)
            with v.loop(index(0), index(v.lanes), 1, start) as lane:
                at = b.add(b.mul(lane.counter, row_stride), channel)
                row = [v.load(v.at(rows, at, index(c * v.width))) for c in range(wide)]
                for r in range(several):
                    weight = v.broadcast(
                        v.at(weights, b.mul(b.add(key, index(r)), index(v.lanes)), lane.counter)
                    )
                    for c in range(wide):
                        slot = r * wide + c
                        lane.carry[slot] = v.multiply_add(weight, row[c], lane.values[slot])
            for r, target in enumerate(_list_rows(v, base, stride, slots, key, several)):
                for c in range(wide):
                    place = v.at(target, channel, index(c * v.width))
                    v.store(b.fadd(v.load(place), lane.values[r * wide + c]), place)


scores = _kernel(_emit_scores)
exponentials = _kernel(_emit_exponentials)
gather = _kernel(_emit_gather)
probabilities = _kernel(_emit_probabilities)
score_gradients = _kernel(_emit_score_gradients)
scatter = _kernel(_emit_scatter)


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
