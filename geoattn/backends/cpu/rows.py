"""Rows of channels: read where tokens lie, scaled, packed, turned into lanes, added up."""

from __future__ import annotations

from llvmlite import ir

from geoattn.backends.cpu.emitted import TILE, emitted, list_rows
from geoattn.backends.cpu.vector_ir import Value, Vectors, index


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
        (row,) = list_rows(v, base, stride, tokens, keys.counter, 1)
        (later_row,) = list_rows(v, base, stride, tokens, later, 1)
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


def _emit_look_up(v: Vectors, table: Value, numbers: Value, count: Value, target: Value) -> None:
    """target[i] = table[numbers[i]]; ``count`` in whole vectors."""
    table, target, numbers = v.pointer(table), v.pointer(target), v.pointer(numbers, ir.IntType(32))
    with v.loop(index(0), count, v.width) as place:
        found = v.looked_up(table, v.load_numbers(v.at(numbers, place.counter)))
        v.store(found, v.at(target, place.counter))


def _emit_fetch(v: Vectors, address: Value, depth: Value) -> None:
    """Ask for the cache lines of a row that will be read soon."""
    base = v.pointer(address)
    with v.loop(index(0), depth, 64 // v.element_bytes) as channel:
        v.prefetch(v.at(base, channel.counter))


pack = emitted(_emit_pack)
turn = emitted(_emit_turn)
scale_row = emitted(_emit_scale_row)
add_row = emitted(_emit_add_row)
dot = emitted(_emit_dot)
fetch = emitted(_emit_fetch)
look_up = emitted(_emit_look_up)
