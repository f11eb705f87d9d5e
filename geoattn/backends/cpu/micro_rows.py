"""The micro-kernels for few keys: one query and the keys that it sees, with the channels as vector lanes.

No lane waits for a key that only its neighbors see. In turn, scores are sums across lanes, and each row of k and v is
loaded once for each query. Channels come in whole vectors. Lists of keys have room for whole vectors too; what fills
them up is a key that the query sees, with a bias of −∞. Conventions are those of :mod:`geoattn.backends.cpu.micro`.
"""

from __future__ import annotations

from llvmlite import ir

from geoattn.backends.cpu.micro import list_rows, vector_kernel
from geoattn.backends.cpu.vector_ir import Value, Vectors, index

#: numbers of neighboring vectors of channels that are worked on together, falling to 1
AT_ONCE = (4, 2, 1)


def _emit_dots(
    v: Vectors,
    row: Value,
    depth: Value,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    factor: Value,
    biases: Value,
    results: Value,
) -> None:
    """results[j] = factor * row[0:depth] · x[tokens[j], 0:depth] + biases[j]; ``factor`` is an address."""
    b = v.builder
    row, base, biases, results = (v.pointer(a) for a in (row, base, biases, results))
    times = v.broadcast(v.pointer(factor))
    tokens = v.pointer(tokens, ir.IntType(32))
    with v.loop(index(0), count, v.width) as keys:
        others = list_rows(v, base, stride, tokens, keys.counter, v.width)
        with v.loop(index(0), depth, v.width, [v.constant(0.0)] * v.width) as loop:
            mine = v.load(v.at(row, loop.counter))
            for r, other in enumerate(others):
                loop.carry[r] = v.multiply_add(mine, v.load(v.at(other, loop.counter)), loop.values[r])
        score = b.fmul(v.summed(loop.values), times)
        # + 0 * score: only a bias hides, a product that is −∞ is not a number
        score = v.multiply_add(score, v.constant(0.0), score)
        v.store(b.fadd(score, v.load(v.at(biases, keys.counter))), v.at(results, keys.counter))


def _emit_softmax(v: Vectors, scores: Value, count: Value, maximum: Value, total: Value) -> None:
    """scores[j] ← 2^(scores[j] − maximum); the largest and the sum of these are stored.

    ``maximum`` holds the least that it may be.
    """
    b = v.builder
    scores, maximum, total = (v.pointer(a) for a in (scores, maximum, total))
    with v.loop(index(0), count, v.width, [v.broadcast(maximum)]) as keys:
        keys.carry[0] = v.maximum(v.load(v.at(scores, keys.counter)), keys.values[0])
    top = v.folded(keys.values[0], v.maximum)
    with v.loop(index(0), count, v.width, [v.constant(0.0)]) as keys:
        place = v.at(scores, keys.counter)
        power = v.exp2(b.fsub(v.load(place), top))
        v.store(power, place)
        keys.carry[0] = b.fadd(keys.values[0], power)
    b.store(v.first(top), maximum)
    b.store(v.first(v.folded(keys.values[0], b.fadd)), total)


def _emit_differences(
    v: Vectors, scores: Value, products: Value, count: Value, level: Value, delta: Value
) -> None:
    """scores[j] ← p = 2^(scores[j] − level), and products[j] ← p * (products[j] − delta).

    ``level`` and ``delta`` are addresses of numbers.
    """
    b = v.builder
    scores, products = v.pointer(scores), v.pointer(products)
    level, delta = (v.broadcast(v.pointer(a)) for a in (level, delta))
    with v.loop(index(0), count, v.width) as keys:
        place, other = v.at(scores, keys.counter), v.at(products, keys.counter)
        power = v.exp2(b.fsub(v.load(place), level))
        v.store(power, place)
        v.store(b.fmul(power, b.fsub(v.load(other), delta)), other)


def _emit_mix(
    v: Vectors,
    base: Value,
    stride: Value,
    tokens: Value,
    count: Value,
    weights: Value,
    depth: Value,
    result: Value,
) -> None:
    """result[0:depth] = sum_j weights[j] * x[tokens[j], 0:depth], two keys at a time."""
    b = v.builder
    base, weights, result = (v.pointer(a) for a in (base, weights, result))
    tokens = v.pointer(tokens, ir.IntType(32))
    for strip, wide in v.strips(b.udiv(depth, index(v.width)), AT_ONCE):
        channel = b.mul(strip.counter, index(v.width))
        with v.loop(index(0), count, 2, [v.constant(0.0)] * (2 * wide)) as keys:
            for r, row in enumerate(list_rows(v, base, stride, tokens, keys.counter, 2)):
                weight = v.broadcast(v.at(weights, keys.counter, index(r)))
                for c in range(wide):
                    value, slot = v.load(v.at(row, channel, index(c * v.width))), r * wide + c
                    keys.carry[slot] = v.multiply_add(weight, value, keys.values[slot])
        for c in range(wide):
            total = b.fadd(keys.values[c], keys.values[wide + c])
            v.store(total, v.at(result, channel, index(c * v.width)))


def _emit_add_multiples(
    v: Vectors,
    row: Value,
    depth: Value,
    weights: Value,
    slots: Value,
    count: Value,
    base: Value,
    stride: Value,
) -> None:
    """x[slots[j], 0:depth] += weights[j] * row[0:depth]."""
    b = v.builder
    base, weights, row = (v.pointer(a) for a in (base, weights, row))
    slots = v.pointer(slots, ir.IntType(32))
    for strip, wide in v.strips(b.udiv(depth, index(v.width)), AT_ONCE):
        channel = b.mul(strip.counter, index(v.width))
        mine = [v.load(v.at(row, channel, index(c * v.width))) for c in range(wide)]
        with v.loop(index(0), count, 1) as keys:
            weight = v.broadcast(v.at(weights, keys.counter))
            (target,) = list_rows(v, base, stride, slots, keys.counter, 1)
            for c in range(wide):
                place = v.at(target, channel, index(c * v.width))
                v.store(v.multiply_add(weight, mine[c], v.load(place)), place)


dots = vector_kernel(_emit_dots)
softmax = vector_kernel(_emit_softmax)
differences = vector_kernel(_emit_differences)
mix = vector_kernel(_emit_mix)
add_multiples = vector_kernel(_emit_add_multiples)
