"""Forward pass: out = Σ e^{s − lse} v over the keys of each block's list, with a running maximum.

A program takes the queries of a block, for one head or for several that share a key head (their rows lie
one below the other), and a slice of the value channels. It walks the steps that need a mask, then the others.
"""

from __future__ import annotations

import triton
import triton.language as tl

from geoattn.backends.triton.walk import (
    LOG2_E,
    SIDE,
    add_product,
    bias_of,
    columns_of,
    factor_of,
    of_exponent,
    pair_bias,
    products,
    rows_at,
    seen_in,
    write_rows,
)

#: below every score that is not −∞, and finite: no step needs a case for rows that have seen no key yet
LOWEST = tl.constexpr(-3e38)


@triton.jit(do_not_specialize=["blocks", "ring", "heads", "queries"])
def attend(
    q, k, v, out, lse, bias, scales, scale, table, plan, blocks, ring, heads, queries,
    SHARED: tl.constexpr, PACK: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr, GATHERED: tl.constexpr,
    SCORE_DIM: tl.constexpr, SCORE_WIDTH: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One block, ``PACK`` heads, one slice of the values.

    ``lse`` is ``[batch, query, head]``; ``SHARED`` query heads use one key head.
    """
    ROWS: tl.constexpr = TILES * SIDE
    M: tl.constexpr = ROWS * PACK
    HALVES: tl.constexpr = 64 // N
    SLICES: tl.constexpr = (VALUE_DIM + VALUE_WIDTH - 1) // VALUE_WIDTH
    rest = tl.program_id(0)
    block = tl.load(plan.schedule + rest % blocks)
    rest = rest // blocks
    channel = rest % SLICES * VALUE_WIDTH
    rest = rest // SLICES
    first_head = rest % (heads // PACK) * PACK
    batch = rest // (heads // PACK)
    row = tl.arange(0, M)
    place = row % ROWS
    head = first_head + row // ROWS
    token = tl.load(plan.row_order + block * ROWS + place)
    there = token >= 0
    qx = rows_at(q, batch, head, token, there, 0, SCORE_DIM, SCORE_WIDTH)
    factor = factor_of(scales, scale, batch, head) * LOG2_E
    if scales.data is not None:
        factor = factor[:, None]

    top = tl.full((M,), LOWEST, tl.float32)
    total = tl.zeros((M,), tl.float32)
    lowest = tl.zeros((M,), tl.float32)
    sums = tl.zeros((M, VALUE_WIDTH), tl.float32)
    bounds = plan.bounds + tl.load(plan.block_class + block) * 3
    shift = tl.load(plan.block_shift + block)
    middle = tl.load(bounds + 1)
    for PARTIAL in tl.static_range(1, -1, -1):
        begin = middle
        end = tl.load(bounds + 2)
        if PARTIAL:
            begin = tl.load(bounds)
            end = middle
        for part in tl.range(begin * HALVES, end * HALVES):
            step = part // HALVES
            first = part % HALVES * N
            key = columns_of(plan, ring, step, shift, first, N, GATHERED)
            held = key >= 0
            key_head = first_head // SHARED
            kx = rows_at(k, batch, key_head, key, held, 0, SCORE_DIM, SCORE_WIDTH)
            product = products(
                qx,
                kx,
                q,
                head,
                token,
                there,
                k,
                key_head,
                key,
                held,
                batch,
                SCORE_DIM,
                SCORE_WIDTH,
                PRECISION,
            )
            # a product of −∞ hides no key, it is not a number
            lowest = tl.minimum(lowest, tl.min(product, 1))
            score = product * factor + bias_of(bias, batch, key, held)[None, :]
            if table.data is not None:
                score += pair_bias(
                    table, plan, batch, head[:, None], token[:, None], step, place, first, N, TILES
                )
            if PARTIAL:
                score = tl.where(seen_in(plan, step, place, first, N, TILES), score, float("-inf"))
            new_top = tl.maximum(top, tl.max(score, 1))
            shrink = tl.exp2(top - new_top)
            weight = tl.exp2(score - new_top[:, None])
            total = total * shrink + tl.sum(weight, 1)
            vx = rows_at(v, batch, key_head, key, held, channel, VALUE_DIM, VALUE_WIDTH)
            sums = add_product(sums * shrink[:, None], weight.to(vx.dtype), vx, PRECISION)
            top = new_top

    total = tl.where(lowest == float("-inf"), float("nan"), total)
    inverse = tl.where(total == 0.0, 0.0, 1.0 / total)  # a query without keys gives 0
    write_rows(out, batch, head, token, there, channel, sums * inverse[:, None], VALUE_DIM, VALUE_WIDTH)
    if channel == 0:
        level = tl.where(total == 0.0, float("-inf"), of_exponent(top) + tl.log(total))
        at = (batch.to(tl.int64) * queries + token) * heads + head
        tl.store(lse + at, level, mask=there)
