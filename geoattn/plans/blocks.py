"""Plans in blocks: one or two neighboring tiles of 64 rows that walk one list of steps.

A matrix unit that multiplies 128 rows at a time wants a list for them all. Two tiles that follow each
other in a plan see mostly the same keys; their merged list is little longer than that of one, and each
step says which mask is whose. Where tiles share lists up to a shift, so do pairs of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from geoattn.plans.base import NumberedTilePlan, TilePlan

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]

#: rows of ``masks`` that every plan has: no pair is visible, every pair is
NOTHING, EVERYTHING = 0, 1
#: rows and columns of a tile
SIDE = TilePlan.query_tile
_ALL = ~np.uint64(0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BlockPlan:
    """Blocks of ``tiles`` tiles of 64 rows, and the steps of 64 columns that they visit.

    Block b holds the tokens ``row_order[b * 64 * tiles : (b + 1) * 64 * tiles]``, −1 where it is padded.
    It walks the list of its class c: the steps ``bounds[c, 0]`` to ``bounds[c, 2]``, from ``bounds[c, 1]``
    on those that need no mask. A step stands for the column tile ``steps[e, 0] + block_shift[b]``, less
    ``ring`` if that is ``steps[e, 1]`` or more; ``steps[e, 2 + i]`` is the mask of the block's tile i.

    A step needs no mask if every row sees every column, or if all that hides a pair is padding: padded
    columns are hidden by their bias, padded rows are nowhere written.
    """

    tiles: int
    #: int32 [blocks * 64 * tiles], position → token, −1 for padding
    row_order: NDArray[np.int32]
    #: int32 [column tiles * 64]
    column_order: NDArray[np.int32]
    #: int32 [blocks], each
    block_class: NDArray[np.int32]
    block_shift: NDArray[np.int32]
    ring: int
    #: int32 [classes, 3]
    bounds: NDArray[np.int32]
    #: int32 [steps, 4]
    steps: NDArray[np.int32]
    #: uint64 [masks, 64]: bit j of row i says whether row i sees column j
    masks: Words
    #: int32 [steps, 2, 64], or without steps where they are whole tiles: a step's columns as positions in
    #: ``column_order``, −1 for none, and for each the position at which its ring ends. In block b it is the
    #: position ``64 * block_shift[b]`` further, less ``64 * ring`` if that is the end or more
    places: NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.empty((0, 2, SIDE), np.int32))
    #: of a relation, else empty. int32 [steps, 2]: the tile of ``numbers`` of each of the block's tiles
    number_ids: NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.empty((0, 2), np.int32))
    #: int32 [n, 64, 64]: the number of row i with column j
    numbers: NDArray[np.int32] = dataclasses.field(
        default_factory=lambda: np.empty((0, SIDE, SIDE), np.int32)
    )

    @property
    def gathered(self) -> bool:
        """Whether columns are single keys."""
        return len(self.places) > 0

    @property
    def lengths(self) -> Numbers:
        """Number of steps of each block."""
        return (self.bounds[:, 2] - self.bounds[:, 0]).astype(np.int64)[self.block_class]

    @property
    def schedule(self) -> NDArray[np.int32]:
        """Blocks, those with the longest lists first."""
        return np.argsort(-self.lengths, kind="stable").astype(np.int32)


def in_blocks(plan: TilePlan, tiles: int = 2) -> BlockPlan:
    """Lay the tiles of a plan out in blocks of one or two."""
    ids = _relieved(plan)
    pairs = list(_alone(plan) if tiles == 1 else _paired(plan))
    first, second = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    there = second >= 0
    shift = np.where(there, plan.tile_shift[second] - plan.tile_shift[first], 0) % plan.ring
    kinds = np.stack([plan.tile_class[first], np.where(there, plan.tile_class[second], -1), shift], axis=1)
    classes, block_class = np.unique(kinds, axis=0, return_inverse=True)
    of_entries = np.zeros((len(ids), 2), dtype=np.int64)
    of_entries[:, 0] = ids
    if isinstance(plan, NumberedTilePlan):
        of_entries[:, 1] = plan.number_ids
    lists = [_merged(plan, of_entries, *map(int, kind)) for kind in classes]
    full = [(steps[:, 2:4] == EVERYTHING).all(1) for steps in lists]
    lists = [np.concatenate([x[~f], x[f]]) for x, f in zip(lists, full, strict=True)]
    ends = np.cumsum([0, *map(len, lists)])
    bounds = np.stack([ends[:-1], ends[1:] - [f.sum() for f in full], ends[1:]], axis=1)
    steps = np.concatenate([np.empty((0, 6)), *lists]).astype(np.int32)
    orders = np.append(plan.query_order, np.full(SIDE, -1, np.int32)).reshape(-1, SIDE)  # −1: padding
    made = BlockPlan(
        tiles=tiles,
        row_order=orders[np.stack([first, second][:tiles], axis=1)].reshape(-1),
        column_order=plan.key_order,
        block_class=block_class.reshape(-1).astype(np.int32),
        block_shift=(plan.tile_shift[first] % plan.ring).astype(np.int32),
        ring=plan.ring,
        bounds=bounds.astype(np.int32),
        steps=np.ascontiguousarray(steps[:, :4]),
        masks=np.concatenate([np.repeat(np.array([[0], [_ALL]], np.uint64), SIDE, axis=1), plan.masks]),
    )
    if isinstance(plan, NumberedTilePlan):
        number_ids = np.ascontiguousarray(steps[:, 4:])
        made = dataclasses.replace(made, number_ids=number_ids, numbers=plan.numbers)
    return made


def all_in_blocks(queries: int, keys: int, tiles: int = 2) -> BlockPlan:
    """Blocks whose rows see every key, in the order of the tokens: one list, and no masks."""

    def padded(tokens: int, unit: int) -> NDArray[np.int32]:
        order = np.arange(tokens, dtype=np.int32)
        return np.pad(order, (0, -tokens % unit), constant_values=-1)

    rows, columns = padded(queries, SIDE * tiles), padded(keys, SIDE)
    blocks, visited = len(rows) // (SIDE * tiles), len(columns) // SIDE
    steps = np.full((visited, 4), EVERYTHING, dtype=np.int32)
    steps[:, 0], steps[:, 1] = np.arange(visited), visited
    return BlockPlan(
        tiles=tiles,
        row_order=rows,
        column_order=columns,
        block_class=np.zeros(blocks, np.int32),
        block_shift=np.zeros(blocks, np.int32),
        ring=visited,
        bounds=np.array([[0, 0, visited]], np.int32),
        steps=steps,
        masks=np.repeat(np.array([[0], [_ALL]], np.uint64), SIDE, axis=1),
    )


def _relieved(plan: TilePlan) -> Numbers:
    """The mask of each entry as a row of a block plan, :data:`EVERYTHING` where only padding hides pairs."""
    ids = np.where(plan.mask_ids < 0, EVERYTHING, plan.mask_ids.astype(np.int64) + 2)
    rows, columns = (held_places(order) for order in (plan.query_order, plan.key_order))
    _, first = np.unique(plan.tile_class, return_index=True)
    # a list stands for many tiles; they are padded alike, or the mask stays
    alike = np.ones(len(first), dtype=bool)
    np.logical_and.at(alike, plan.tile_class, rows == rows[first][plan.tile_class])
    turning = columns.reshape(-1, plan.ring) if len(columns) % plan.ring == 0 else columns[None]
    if plan.tile_shift.any() and (turning != turning[:, :1]).any():
        return ids
    label = np.repeat(np.arange(len(first)), np.diff(plan.indptr))
    cases = np.stack([ids.astype(np.uint64), rows[first][label], columns[plan.key_tiles]], axis=1)
    cases, case = np.unique(cases, axis=0, return_inverse=True)
    relieved = np.zeros(len(cases), dtype=bool)
    for number, (mask, row, column) in enumerate(cases):
        if mask > EVERYTHING:
            held = (row >> np.arange(SIDE, dtype=np.uint64) & np.uint64(1)).astype(bool)
            relieved[number] = (plan.masks[int(mask) - 2][held] == column).all()
    return np.where(relieved[case.reshape(-1)] & alike[label], EVERYTHING, ids)


def held_places(order: NDArray[np.int32]) -> Words:
    """For each tile, a word of the positions that hold a token."""
    held = order.reshape(-1, SIDE) >= 0
    words: Words = np.packbits(held, axis=1, bitorder="little").view("<u8")[:, 0]
    return words.astype(np.uint64)


def _alone(plan: TilePlan) -> Iterator[tuple[int, int]]:
    return ((tile, -1) for tile in range(len(plan.tile_class)))


def _paired(plan: TilePlan) -> list[tuple[int, int]]:
    """Tiles that follow each other in pairs, or alone (−1) where that leaves fewer steps in all."""
    n = len(plan.tile_class)
    lengths = plan.lengths
    unions = _union_lengths(plan)
    # least[t]: steps of the first t tiles. A pair costs a block less than two tiles alone
    least = np.zeros(n + 1)
    joined = np.zeros(n + 1, dtype=bool)
    for t in range(1, n + 1):
        least[t] = least[t - 1] + lengths[t - 1] + 1
        if t > 1 and least[t - 2] + unions[t - 2] + 1 <= least[t]:
            least[t], joined[t] = least[t - 2] + unions[t - 2] + 1, True
    pairs, t = [], n
    while t > 0:
        pairs.append((t - 2, t - 1) if joined[t] else (t - 1, -1))
        t -= 2 if joined[t] else 1
    return pairs[::-1]


def _union_lengths(plan: TilePlan) -> Numbers:
    """For each tile but the last: the key tiles that it or the next one visits."""
    shift = (plan.tile_shift[1:] - plan.tile_shift[:-1]) % plan.ring
    kinds = np.stack([plan.tile_class[:-1], plan.tile_class[1:], shift], axis=1)
    classes, label = np.unique(kinds, axis=0, return_inverse=True)
    lengths = [len(np.union1d(_visited(plan, a), _visited(plan, b, s))) for a, b, s in classes]
    return np.array(lengths, dtype=np.int64)[label.reshape(-1)]


def _visited(plan: TilePlan, label: int, shift: int = 0) -> Numbers:
    """Key tiles of a class, moved by a shift."""
    tiles = plan.key_tiles[plan.indptr[label] : plan.indptr[label + 1]].astype(np.int64)
    start = tiles // plan.ring * plan.ring
    return start + (tiles - start + shift) % plan.ring


def _merged(plan: TilePlan, of_entries: Numbers, first: int, second: int, shift: int) -> Numbers:
    """The steps of a block of two classes, the second one moved; or of one alone, if that is −1.

    ``of_entries`` are the mask and the tile of numbers of each entry of the plan; the last four columns are
    the masks of both sides, and their tiles of numbers.
    """
    sides = [(first, 0)] if second < 0 else [(first, 0), (second, shift)]
    visited = [_visited(plan, label, moved) for label, moved in sides]
    tiles = np.unique(np.concatenate(visited))
    steps = np.zeros((len(tiles), 6), dtype=np.int64)
    steps[:, 0], steps[:, 1] = tiles, tiles // plan.ring * plan.ring + plan.ring
    steps[:, 2:4] = NOTHING if len(sides) == 2 else EVERYTHING  # padded rows see what they like
    for side, ((label, _), found) in enumerate(zip(sides, visited, strict=True)):
        own = of_entries[plan.indptr[label] : plan.indptr[label + 1]]
        steps[np.searchsorted(tiles, found), 2 + side :: 2] = own
    return steps
