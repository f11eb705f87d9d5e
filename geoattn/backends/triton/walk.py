"""What the kernels share: arguments, the walk along a block's steps, rows of operands, exponents of two."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

#: columns of a step
SIDE = tl.constexpr(64)
LOG2_E = tl.constexpr(1.4426950408889634)
#: exponents of 2 beyond this are bent back, so that all finite biases have finite ones, in their order
BEND = tl.constexpr(2.0**125)


class View(NamedTuple):
    """A tensor ``[batch, token, head, channel]`` of any strides."""

    data: Any
    batch: Any
    token: Any
    head: Any
    channel: Any


class Plan(NamedTuple):
    """:class:`geoattn.backends.triton.plans.DevicePlan`."""

    row_order: Any
    column_order: Any
    schedule: Any
    block_class: Any
    block_shift: Any
    bounds: Any
    steps: Any
    masks: Any
    tokens: Any
    number_ids: Any
    numbers: Any


class Table(NamedTuple):
    """A table of biases in exponents of 2: ``[batch or 1, head, number]``, or one for each query.

    ``[batch, query, head, number]``; strides are 0 where there is but one.
    """

    data: Any
    batch: Any
    query: Any
    head: Any


class Vector(NamedTuple):
    """An additive vector ``[batch or 1, key]`` in exponents of 2, or scales ``[batch or 1, head]``."""

    data: Any
    batch: Any


@triton.jit
def columns_of(plan, ring, step, shift, first, N: tl.constexpr, GATHERED: tl.constexpr):
    """Tokens of N columns of a step, from the ``first`` on; −1 for padding.

    ``shift`` is that of the block: of its tiles, or where keys are gathered of its rows of ``tokens``.
    """
    column = first + tl.arange(0, N)
    if GATHERED:
        token = tl.load(plan.tokens + (step + shift).to(tl.int64) * SIDE + column)
    else:
        tile = tl.load(plan.steps + 4 * step) + shift
        tile = tl.where(tile >= tl.load(plan.steps + 4 * step + 1), tile - ring, tile)
        token = tl.load(plan.column_order + tile * SIDE + column)
    return token


@triton.jit
def seen_in(plan, step, place, first, N: tl.constexpr, TILES: tl.constexpr):
    """Which of these columns each row sees; ``place`` is that of a row in its block."""
    mask = tl.load(plan.steps + 4 * step + 2)
    if TILES == 2:
        mask = tl.where(place < SIDE, mask, tl.load(plan.steps + 4 * step + 3))
    words = plan.masks + (mask * SIDE + place % SIDE) * 2
    column = tl.arange(0, N)
    bit = 1 << (column % 32)
    if N == SIDE:
        low, high = tl.load(words), tl.load(words + 1)
        word = tl.where((column < 32)[None, :], low[:, None], high[:, None])
    else:
        word = (tl.load(words + first // 32) >> (first % 32))[:, None]
    return (word & bit[None, :]) != 0


@triton.jit
def rows_at(view, batch, head, token, there, first, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows ``[n, WIDTH]`` of channels from the ``first`` on; 0 for padding and where no channel is left."""
    channel = first + tl.arange(0, WIDTH)
    row = batch.to(tl.int64) * view.batch + head.to(tl.int64) * view.head + token.to(tl.int64) * view.token
    at = view.data + row[:, None] + (channel * view.channel)[None, :]
    inside = there[:, None]
    if CHANNELS % WIDTH != 0:
        inside = inside & (channel < CHANNELS)[None, :]
    return tl.load(at, mask=inside, other=0.0)


@triton.jit
def write_rows(view, batch, head, token, there, first, x, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """The same way back, rounded to what the tensor holds."""
    channel = first + tl.arange(0, WIDTH)
    row = batch.to(tl.int64) * view.batch + head.to(tl.int64) * view.head + token.to(tl.int64) * view.token
    at = view.data + row[:, None] + (channel * view.channel)[None, :]
    inside = there[:, None]
    if CHANNELS % WIDTH != 0:
        inside = inside & (channel < CHANNELS)[None, :]
    tl.store(at, x.to(view.data.dtype.element_ty), mask=inside)


@triton.jit
def products(
    row, column, rows, row_head, row_token, row_there, columns, column_head, column_token, column_there,
    batch, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products ``[M, N]`` of rows with columns. The first WIDTH channels are at hand, more are read."""
    sums = tl.dot(row, tl.trans(column), input_precision=PRECISION)
    if CHANNELS > 2 * WIDTH or row.dtype == tl.float32:  # unrolled, the rows would stay in shared memory
        for first in tl.range(WIDTH, CHANNELS, WIDTH, num_stages=1):
            x = rows_at(rows, batch, row_head, row_token, row_there, first, CHANNELS, WIDTH)
            y = rows_at(columns, batch, column_head, column_token, column_there, first, CHANNELS, WIDTH)
            sums += tl.dot(x, tl.trans(y), input_precision=PRECISION)
    else:
        for first in tl.static_range(WIDTH, CHANNELS, WIDTH):
            x = rows_at(rows, batch, row_head, row_token, row_there, first, CHANNELS, WIDTH)
            y = rows_at(columns, batch, column_head, column_token, column_there, first, CHANNELS, WIDTH)
            sums += tl.dot(x, tl.trans(y), input_precision=PRECISION)
    return sums


@triton.jit
def bias_of(bias, batch, token, there):
    """What is added to the scores of these keys; −∞ for padding."""
    if bias.data is None:
        found = tl.where(there, 0.0, float("-inf"))
    else:
        found = tl.load(bias.data + batch.to(tl.int64) * bias.batch + token, mask=there, other=float("-inf"))
    return found


@triton.jit
def pair_bias(
    table, plan, batch, head, query, step, place, first, N: tl.constexpr, TILES: tl.constexpr
):  # fmt: skip
    """What a table adds to the scores of rows with N columns; ``head`` and ``query`` are of either."""
    tile = tl.load(plan.number_ids + 2 * step)
    if TILES == 2:
        tile = tl.where(place < SIDE, tile, tl.load(plan.number_ids + 2 * step + 1))
    row = (tile.to(tl.int64) * SIDE + place % SIDE) * SIDE
    number = tl.load(plan.numbers + row[:, None] + (first + tl.arange(0, N))[None, :])
    at = batch.to(tl.int64) * table.batch + head.to(tl.int64) * table.head
    return tl.load(table.data + at + tl.maximum(query, 0).to(tl.int64) * table.query + number)


@triton.jit
def factor_of(scales, scale, batch, head):
    """The scale of a head, or those of the heads of rows."""
    found = scale
    if scales.data is not None:
        found = tl.load(scales.data + batch * scales.batch + head)
    return found


@triton.jit
def add_product(sums, x, y, PRECISION: tl.constexpr):
    """sums + x·y. A tensor core cuts long sums off where others round: float32 is added outside of it."""
    if x.dtype == tl.float32:
        sums = tl.fma(tl.dot(x, y, input_precision=PRECISION), tl.full(sums.shape, 1.0, tl.float32), sums)
    else:
        sums = tl.dot(x, y, sums)
    return sums


@triton.jit
def exponent(x):
    """log₂ e times a number, bent so that it is finite for every finite one."""
    size = tl.abs(x)
    bent = BEND + (size - BEND / LOG2_E) * 0.5
    beyond = (size > BEND / LOG2_E) & (size < float("inf"))
    return tl.where(beyond, tl.where(x < 0, -bent, bent), x * LOG2_E)


@triton.jit
def of_exponent(y):
    """The number whose exponent this is."""
    size = tl.abs(y)
    straight = BEND / LOG2_E + (size - BEND) * 2.0
    beyond = (size > BEND) & (size < float("inf"))
    return tl.where(beyond, tl.where(y < 0, -straight, straight), y / LOG2_E)
