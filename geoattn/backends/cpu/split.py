"""Entries of a plan, dealt out to the groups of lanes of a tile."""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir

from geoattn.backends.cpu.emitted import TILE, emitted
from geoattn.backends.cpu.vector_ir import INDEX, Value, Vectors, index


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


split = emitted(_emit_split)
