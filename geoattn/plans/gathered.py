"""Plans in blocks whose steps are single keys: those that a block sees, moved together.

A step of a block's list brings 64 columns, of which its rows often see few. Here the columns that any row
sees are gathered into fewer steps: first those that some row does not see, then those that all see, so that
most of these need no mask. What it costs is a place for each column, and masks that no two lists share.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from geoattn.plans.blocks import EVERYTHING, SIDE, BlockPlan, held_places

Words = NDArray[np.uint64]
_ONE, _NONE, _ALL = np.uint64(1), np.uint64(0), ~np.uint64(0)


def gathered_bounds(plan: BlockPlan) -> NDArray[np.int32]:
    """``bounds`` of the gathered plan: what it costs, without the making of it."""
    return _bounds(plan, *_columns(plan))


def gathered(plan: BlockPlan) -> BlockPlan:
    """The same neighborhood with its columns gathered."""
    some, every = _columns(plan)
    bounds = _bounds(plan, some, every)
    n = int(bounds[-1, 2]) if len(bounds) else 0
    places = np.full((n, 2, SIDE), -1, dtype=np.int32)
    words = np.zeros((n, plan.tiles, SIDE), dtype=np.uint64)
    _fill(plan.bounds, plan.steps, plan.masks, some, every, bounds, places, words)
    steps = np.zeros((n, 4), dtype=np.int32)
    steps[:, 2:] = EVERYTHING
    masked = np.concatenate([np.arange(first, middle) for first, middle, _ in bounds] or [np.arange(0)])
    ids = 2 + np.arange(len(masked) * plan.tiles).reshape(-1, plan.tiles)
    steps[masked, 2 : 2 + plan.tiles] = ids
    masks = np.concatenate([plan.masks[:2], words[masked].reshape(-1, SIDE)])
    return dataclasses.replace(plan, bounds=bounds, steps=steps, masks=masks, places=places)


def tokens_of(plan: BlockPlan) -> NDArray[np.int32]:
    """The keys of each block's steps, −1 for none: ``[steps of all blocks, 64]``, a list for each block."""
    lengths = plan.lengths
    block = np.repeat(np.arange(len(lengths)), lengths)
    inside = np.arange(len(block)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = np.empty((len(block), SIDE), dtype=np.int32)
    places = plan.places[plan.bounds[plan.block_class[block], 0] + inside]
    _look_up(places, plan.block_shift[block], plan.ring, plan.column_order, tokens)
    return tokens


def _columns(plan: BlockPlan) -> tuple[Words, Words]:
    """For each step, a word of the columns that some row of the block sees, and one of those that all see."""
    rows = held_places(plan.row_order).reshape(-1, plan.tiles)
    needed = np.zeros((len(plan.bounds), plan.tiles), dtype=np.uint64)
    np.bitwise_or.at(needed, plan.block_class, rows)  # a row that is padding in all blocks sees what it likes
    columns = held_places(plan.column_order)
    if plan.block_shift.any():  # a list stands for columns all around the ring
        turning = np.bitwise_or.reduce(columns.reshape(-1, plan.ring), axis=1)
        columns = np.repeat(turning, plan.ring)
    some, every = (np.empty(len(plan.steps), dtype=np.uint64) for _ in range(2))
    _summarize(plan.bounds, plan.steps, plan.masks, needed, columns, some, every)
    return some, every


def _bounds(plan: BlockPlan, some: Words, every: Words) -> NDArray[np.int32]:
    """First step of each class, first that needs no mask, and end."""
    counts = np.array([np.bitwise_count(x).astype(np.int64) for x in (some, every)])
    sums = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    of_class = sums[:, plan.bounds[:, 2]] - sums[:, plan.bounds[:, 0]]
    masked = -(-(of_class[0] - of_class[1]) // SIDE)
    whole = np.maximum(masked, -(-of_class[0] // SIDE))
    ends = np.cumsum(whole)
    return np.stack([ends - whole, ends - whole + masked, ends], axis=1).astype(np.int32)


@numba.njit(cache=True, nogil=True)
def _summarize(bounds: Any, steps: Any, masks: Any, needed: Any, columns: Any, some: Any, every: Any) -> None:
    for label in range(len(bounds)):
        for step in range(bounds[label, 0], bounds[label, 2]):
            seen, all_seen = _NONE, _ALL
            for side in range(needed.shape[1]):
                mask = steps[step, 2 + side]
                if needed[label, side] == _NONE:
                    continue
                for row in range(SIDE):
                    if needed[label, side] >> np.uint64(row) & _ONE:
                        seen |= masks[mask, row]
                        all_seen &= masks[mask, row]
            some[step] = seen & columns[steps[step, 0]]
            every[step] = seen & all_seen & columns[steps[step, 0]]


@numba.njit(cache=True, nogil=True)
def _fill(
    bounds: Any, steps: Any, masks: Any, some: Any, every: Any, new: Any, places: Any, words: Any
) -> None:
    """Places of the columns with the end of their ring, and the masks of the steps."""
    for label in range(len(bounds)):
        n = new[label, 0] * SIDE
        for whole in range(2):
            for step in range(bounds[label, 0], bounds[label, 2]):
                left = every[step] if whole else some[step] & ~every[step]
                for column in range(SIDE):
                    if not left >> np.uint64(column) & _ONE:
                        continue
                    there, slot = n // SIDE, n % SIDE
                    places[there, 0, slot] = steps[step, 0] * SIDE + column
                    places[there, 1, slot] = steps[step, 1] * SIDE
                    n += 1
                    if there >= new[label, 1]:
                        continue
                    for side in range(words.shape[1]):
                        mask = steps[step, 2 + side]
                        for row in range(SIDE):
                            bit = masks[mask, row] >> np.uint64(column) & _ONE
                            words[there, side, row] |= bit << np.uint64(slot)


@numba.njit(cache=True, nogil=True)
def _look_up(places: Any, shifts: Any, ring: int, order: Any, tokens: Any) -> None:
    for step in range(len(tokens)):
        for slot in range(SIDE):
            place = places[step, 0, slot]
            moved = place + shifts[step] * SIDE
            if moved >= places[step, 1, slot]:
                moved -= ring * SIDE
            tokens[step, slot] = order[moved] if place >= 0 else -1
