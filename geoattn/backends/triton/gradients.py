"""Backward passes over the lists: each program owns its rows, and no two write the same place.

Both compute p = e^{s − lse} anew, from what the first kernel notes of each query:

    dp_ij = dO_i · v_j,   ds_ij = p_ij (dp_ij − delta_i),   delta_i = dO_i · out_i − dlse_i,
    dQ_i = scale Σ_j ds_ij k_j,   dK_j = scale Σ_i ds_ij q_i,   dV_j = Σ_i p_ij dO_i,   db_j = Σ_i ds_ij,
    dscale = Σ_i q_i · Σ_j ds_ij k_j.
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
    exponent,
    factor_of,
    pair_bias,
    products,
    rows_at,
    seen_in,
    write_rows,
)


@triton.jit(do_not_specialize=["rows", "queries", "heads"])
def note(
    out, out_gradient, lse, lse_gradient, notes, rows, queries, heads,
    VALUE_DIM: tl.constexpr, VALUE_WIDTH: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The exponent of lse and delta of N queries: ``notes [2, batch, query, head]``, like lse itself.

    A query that sees nothing gets an exponent of +∞, which makes every p 0.
    """
    row = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    there = row < rows
    head = row % heads
    query = row // heads % queries
    batch = row // heads // queries
    delta = tl.zeros((N,), tl.float32)
    for first in tl.static_range(0, VALUE_DIM, VALUE_WIDTH):
        x = rows_at(out, batch, head, query, there, first, VALUE_DIM, VALUE_WIDTH)
        y = rows_at(out_gradient, batch, head, query, there, first, VALUE_DIM, VALUE_WIDTH)
        delta += tl.sum(x.to(tl.float32) * y.to(tl.float32), 1)
    level = tl.load(lse + row, mask=there, other=0.0)
    if lse_gradient is not None:
        delta -= tl.load(lse_gradient + row, mask=there, other=0.0)
    nothing = level == float("-inf")
    tl.store(notes + row, tl.where(nothing, float("inf"), exponent(level)), mask=there)
    tl.store(notes + rows + row, tl.where(nothing, 0.0, delta), mask=there)


@triton.jit(do_not_specialize=["blocks", "ring", "heads", "queries", "rows"])
def query_gradient(
    q, out_gradient, k, v, dq, dscale, notes, bias, scales, scale, table, plan, blocks, ring,
    heads, queries, rows,
    SHARED: tl.constexpr, PACK: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr, GATHERED: tl.constexpr,
    SCORE_DIM: tl.constexpr, SCORE_WIDTH: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ of one block and ``PACK`` heads, a slice of its channels; ``dscale [slice, batch, query, head]``."""
    ROWS: tl.constexpr = TILES * SIDE
    M: tl.constexpr = ROWS * PACK
    HALVES: tl.constexpr = 64 // N
    SLICES: tl.constexpr = (SCORE_DIM + SCORE_WIDTH - 1) // SCORE_WIDTH
    rest = tl.program_id(0)
    block = tl.load(plan.schedule + rest % blocks)
    rest = rest // blocks
    slice = rest % SLICES
    rest = rest // SLICES
    first_head = rest % (heads // PACK) * PACK
    key_head = first_head // SHARED
    batch = rest // (heads // PACK)
    row = tl.arange(0, M)
    place = row % ROWS
    head = first_head + row // ROWS
    token = tl.load(plan.row_order + block * ROWS + place)
    there = token >= 0
    qx = rows_at(q, batch, head, token, there, 0, SCORE_DIM, SCORE_WIDTH)
    gx = rows_at(out_gradient, batch, head, token, there, 0, VALUE_DIM, VALUE_WIDTH)
    at = (batch.to(tl.int64) * queries + token) * heads + head
    level = tl.load(notes + at, mask=there, other=float("inf"))
    delta = tl.load(notes + rows + at, mask=there, other=0.0)
    factor = factor_of(scales, scale, batch, head)
    if scales.data is not None:
        factor = factor[:, None]

    sums = tl.zeros((M, SCORE_WIDTH), tl.float32)
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
            kx = rows_at(k, batch, key_head, key, held, 0, SCORE_DIM, SCORE_WIDTH)
            vx = rows_at(v, batch, key_head, key, held, 0, VALUE_DIM, VALUE_WIDTH)
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
            score = product * (factor * LOG2_E) + bias_of(bias, batch, key, held)[None, :]
            if table.data is not None:
                score += pair_bias(
                    table, plan, batch, head[:, None], token[:, None], step, place, first, N, TILES
                )
            weight = tl.exp2(score - level[:, None])
            if PARTIAL:
                weight = tl.where(seen_in(plan, step, place, first, N, TILES), weight, 0.0)
            dp = products(
                gx, vx, out_gradient, head, token, there, v, key_head, key, held, batch,
                VALUE_DIM, VALUE_WIDTH, PRECISION,
            )  # fmt: skip
            ds = weight * (dp - delta[:, None])
            if SLICES > 1:
                kx = rows_at(k, batch, key_head, key, held, slice * SCORE_WIDTH, SCORE_DIM, SCORE_WIDTH)
            sums = add_product(sums, ds.to(kx.dtype), kx, PRECISION)

    channel = slice * SCORE_WIDTH
    write_rows(dq, batch, head, token, there, channel, sums * factor, SCORE_DIM, SCORE_WIDTH)
    if dscale is not None:
        if SLICES > 1:
            qx = rows_at(q, batch, head, token, there, channel, SCORE_DIM, SCORE_WIDTH)
        tl.store(dscale + slice.to(tl.int64) * rows + at, tl.sum(qx.to(tl.float32) * sums, 1), mask=there)


@triton.jit(do_not_specialize=["blocks", "ring", "heads", "keys", "queries", "rows"])
def key_gradients(
    k, v, q, out_gradient, dk, dv, dbias, notes, bias, scales, scale, table, plan, blocks, ring,
    heads, keys, queries, rows,
    SHARED: tl.constexpr, TILES: tl.constexpr, N: tl.constexpr, GATHERED: tl.constexpr,
    SCORE_DIM: tl.constexpr, SCORE_WIDTH: tl.constexpr, VALUE_DIM: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, SCORE_SIDE: tl.constexpr, VALUE_SIDE: tl.constexpr,
):  # fmt: skip
    """dK (and the gradient of the bias), dV or both, of one block of the transposed plan and one key head.

    ``heads`` are key heads, each walked once for every query head that uses it. ``dbias [batch, head, key]``.
    """
    M: tl.constexpr = TILES * SIDE
    HALVES: tl.constexpr = 64 // N
    CHANNELS: tl.constexpr = SCORE_DIM if SCORE_SIDE else VALUE_DIM
    WIDTH: tl.constexpr = SCORE_WIDTH if SCORE_SIDE else VALUE_WIDTH
    SLICES: tl.constexpr = 1 if SCORE_SIDE and VALUE_SIDE else (CHANNELS + WIDTH - 1) // WIDTH
    rest = tl.program_id(0)
    block = tl.load(plan.schedule + rest % blocks)
    rest = rest // blocks
    slice = rest % SLICES
    rest = rest // SLICES
    head = rest % heads
    batch = rest // heads
    place = tl.arange(0, M)
    token = tl.load(plan.row_order + block * M + place)
    there = token >= 0
    kx = rows_at(k, batch, head, token, there, 0, SCORE_DIM, SCORE_WIDTH)
    vx = rows_at(v, batch, head, token, there, 0, VALUE_DIM, VALUE_WIDTH)
    row_bias = bias_of(bias, batch, token, there)

    score_sums = tl.zeros((M, SCORE_WIDTH), tl.float32)
    value_sums = tl.zeros((M, VALUE_WIDTH), tl.float32)
    bias_sums = tl.zeros((M,), tl.float32)
    bounds = plan.bounds + tl.load(plan.block_class + block) * 3
    shift = tl.load(plan.block_shift + block)
    middle = tl.load(bounds + 1)
    for sharer in range(SHARED):
        query_head = head * SHARED + sharer
        factor = factor_of(scales, scale, batch, query_head)
        for PARTIAL in tl.static_range(1, -1, -1):
            begin = middle
            end = tl.load(bounds + 2)
            if PARTIAL:
                begin = tl.load(bounds)
                end = middle
            for part in tl.range(begin * HALVES, end * HALVES):
                step = part // HALVES
                first = part % HALVES * N
                query = columns_of(plan, ring, step, shift, first, N, GATHERED)
                held = query >= 0
                qx = rows_at(q, batch, query_head, query, held, 0, SCORE_DIM, SCORE_WIDTH)
                gx = rows_at(out_gradient, batch, query_head, query, held, 0, VALUE_DIM, VALUE_WIDTH)
                at = (batch.to(tl.int64) * queries + query) * (heads * SHARED) + query_head
                level = tl.load(notes + at, mask=held, other=float("inf"))
                product = products(
                    kx, qx, k, head, token, there, q, query_head, query, held, batch,
                    SCORE_DIM, SCORE_WIDTH, PRECISION,
                )  # fmt: skip
                score = product * (factor * LOG2_E) + row_bias[:, None]
                if table.data is not None:
                    score += pair_bias(
                        table, plan, batch, query_head, query[None, :], step, place, first, N, TILES
                    )
                weight = tl.exp2(score - level[None, :])
                if PARTIAL:
                    weight = tl.where(seen_in(plan, step, place, first, N, TILES), weight, 0.0)
                if VALUE_SIDE:
                    own = gx
                    if SLICES > 1:
                        own = rows_at(
                            out_gradient,
                            batch,
                            query_head,
                            query,
                            held,
                            slice * VALUE_WIDTH,
                            VALUE_DIM,
                            VALUE_WIDTH,
                        )
                    value_sums = add_product(value_sums, weight.to(own.dtype), own, PRECISION)
                if SCORE_SIDE:
                    delta = tl.load(notes + rows + at, mask=held, other=0.0)
                    dp = products(
                        vx, gx, v, head, token, there, out_gradient, query_head, query, held, batch,
                        VALUE_DIM, VALUE_WIDTH, PRECISION,
                    )  # fmt: skip
                    ds = weight * (dp - delta[None, :])
                    if dbias is not None:
                        bias_sums += tl.sum(ds, 1)
                    if scales.data is not None:  # other heads have another scale
                        ds = ds * factor
                    own = qx
                    if SLICES > 1:
                        own = rows_at(
                            q, batch, query_head, query, held, slice * SCORE_WIDTH, SCORE_DIM, SCORE_WIDTH
                        )
                    score_sums = add_product(score_sums, ds.to(own.dtype), own, PRECISION)

    if VALUE_SIDE:
        write_rows(dv, batch, head, token, there, slice * VALUE_WIDTH, value_sums, VALUE_DIM, VALUE_WIDTH)
    if SCORE_SIDE:
        if scales.data is None:
            score_sums = score_sums * scale
        write_rows(dk, batch, head, token, there, slice * SCORE_WIDTH, score_sums, SCORE_DIM, SCORE_WIDTH)
        if dbias is not None:
            at = (batch.to(tl.int64) * heads + head) * keys + token
            tl.store(dbias + at, bias_sums, mask=there & (slice == 0))


@triton.jit(do_not_specialize=["ring", "heads", "queries", "rows", "n_items"])
def table_gradient(
    q, out_gradient, k, v, sums, items, members, notes, bias, scales, scale, table, plan, ring,
    heads, queries, rows, n_items,
    SHARED: tl.constexpr, SCORE_DIM: tl.constexpr, SCORE_WIDTH: tl.constexpr,
    VALUE_DIM: tl.constexpr, VALUE_WIDTH: tl.constexpr, PRECISION: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of the scores of an item's pairs, over its blocks: ``sums [batch, head, item, 64, 64]``.

    Blocks are single tiles. In each of them a pair has the same number; what is left to add up is the sums of
    each number.
    """
    rest = tl.program_id(0)
    part = rest % (64 // N)
    rest = rest // (64 // N)
    item = rest % n_items
    rest = rest // n_items
    head = rest % heads
    batch = rest // heads
    key_head = head // SHARED
    place = tl.arange(0, 64)
    column = part * N + tl.arange(0, N)
    step = tl.load(items + 4 * item)
    factor = factor_of(scales, scale, batch, head) * LOG2_E
    total = tl.zeros((64, N), tl.float32)
    for member in tl.range(tl.load(items + 4 * item + 1), tl.load(items + 4 * item + 2)):
        block = tl.load(members + member)
        token = tl.load(plan.row_order + block * SIDE + place)
        there = token >= 0
        tile = tl.load(plan.steps + 4 * step) + tl.load(plan.block_shift + block)
        tile = tl.where(tile >= tl.load(plan.steps + 4 * step + 1), tile - ring, tile)
        key = tl.load(plan.column_order + tile * SIDE + column)
        held = key >= 0
        qx = rows_at(q, batch, head, token, there, 0, SCORE_DIM, SCORE_WIDTH)
        kx = rows_at(k, batch, key_head, key, held, 0, SCORE_DIM, SCORE_WIDTH)
        gx = rows_at(out_gradient, batch, head, token, there, 0, VALUE_DIM, VALUE_WIDTH)
        vx = rows_at(v, batch, key_head, key, held, 0, VALUE_DIM, VALUE_WIDTH)
        at = (batch.to(tl.int64) * queries + token) * heads + head
        level = tl.load(notes + at, mask=there, other=float("inf"))
        delta = tl.load(notes + rows + at, mask=there, other=0.0)
        product = products(
            qx, kx, q, head, token, there, k, key_head, key, held, batch, SCORE_DIM, SCORE_WIDTH, PRECISION
        )
        score = product * factor + bias_of(bias, batch, key, held)[None, :]
        score += pair_bias(table, plan, batch, head, token[:, None], step, place, part * N, N, 1)
        weight = tl.where(seen_in(plan, step, place, part * N, N, 1), tl.exp2(score - level[:, None]), 0.0)
        dp = products(
            gx, vx, out_gradient, head, token, there, v, key_head, key, held, batch,
            VALUE_DIM, VALUE_WIDTH, PRECISION,
        )  # fmt: skip
        total += weight * (dp - delta[:, None])
    place_of_sums = ((batch.to(tl.int64) * heads + head) * n_items + item) * (64 * 64)
    tl.store(sums + place_of_sums + place[:, None] * 64 + column[None, :], total)
