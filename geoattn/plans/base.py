"""What a plan is: an order of the tokens and, for each query tile, the key tiles it visits."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """A neighborhood laid out in tiles of ``query_tile`` queries by ``key_tile`` keys.

    Tokens are reordered so that neighbors share tiles. Query tile t holds the tokens
    ``query_order[t * query_tile : (t + 1) * query_tile]`` of the query grid, −1 where it is
    padded; key tiles likewise. Tiles that see the same keys up to a shift share one list: the
    list of tile t is that of its class ``c = tile_class[t]``, entries ``indptr[c]`` to
    ``indptr[c + 1]``, and an entry e stands for the key tile

        ring_start + (key_tiles[e] - ring_start + tile_shift[t]) % ring,
        ring_start = key_tiles[e] // ring * ring.

    Without such a symmetry each tile is its own class with shift 0. Which query of the tile sees which
    key of an entry is what the two kinds of plans add, one for each kind of machine.

    Padded queries and keys are never visible. The backward pass of a row-stationary kernel runs
    the plan of the transposed neighborhood.

    Examples
    --------
    >>> plan = ga.plans.plan(ga.window(ga.grids.cartesian(256), 9))
    >>> plan.query_order.shape
    (256,)
    """

    query_tile: ClassVar[int]
    key_tile: ClassVar[int]

    #: int32 [n_query_tiles * query_tile], position → token, −1 for padding
    query_order: NDArray[np.int32]
    #: int32 [n_key_tiles * key_tile]
    key_order: NDArray[np.int32]
    #: int32 [n_query_tiles]
    tile_class: NDArray[np.int32]
    #: int32 [n_query_tiles], in key tiles
    tile_shift: NDArray[np.int32]
    #: key tiles per ring; shifts wrap within a ring
    ring: int
    #: int64 [n_classes + 1]
    indptr: NDArray[np.int64]
    #: int32 [n_entries], ascending within a class
    key_tiles: NDArray[np.int32]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of key tiles that each query tile visits, ``[n_query_tiles]``."""
        return np.diff(self.indptr)[self.tile_class]

    @property
    def schedule(self) -> NDArray[np.int32]:
        """Query tiles, those with the longest lists first, so that no long one is left for the end."""
        return np.argsort(-self.lengths, kind="stable").astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))

    def is_sound(self, n_queries: int, n_keys: int) -> bool:
        """Whether every number is one that a kernel may follow, for grids of these sizes."""
        n_tiles, n_key_tiles = len(self.tile_class), len(self.key_order) // self.key_tile
        n_classes, n_entries = len(self.indptr) - 1, len(self.key_tiles)
        typed = all(
            array.ndim == 1 and array.dtype == dtype and array.flags.c_contiguous
            for array, dtype in (
                (self.query_order, np.int32),
                (self.key_order, np.int32),
                (self.tile_class, np.int32),
                (self.tile_shift, np.int32),
                (self.indptr, np.int64),
                (self.key_tiles, np.int32),
            )
        )
        return bool(
            typed
            and len(self.query_order) == n_tiles * self.query_tile
            and len(self.key_order) == n_key_tiles * self.key_tile
            and len(self.tile_shift) == n_tiles
            and _holds_each_once(self.query_order, n_queries)
            and _holds_each_once(self.key_order, n_keys)
            and _within(self.tile_class, n_classes)
            and n_classes >= 0
            and self.indptr[0] == 0
            and self.indptr[-1] == n_entries
            and (np.diff(self.indptr) >= 0).all()
            and _within(self.key_tiles, n_key_tiles)
            and self.ring >= 1
            and (n_key_tiles % self.ring == 0 or not self.tile_shift.any())
        )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LanePlan(Plan):
    """For the vector lanes of a CPU: tiles of 32 queries, and the single keys that they gather.

    Examples
    --------
    >>> plan = ga.plans.lane_plan(ga.window(ga.grids.cartesian(64), 9))
    >>> plan.query_tile, plan.key_tile
    (32, 1)
    """

    query_tile: ClassVar[int] = 32
    key_tile: ClassVar[int] = 1

    #: uint32 [n_entries]: bit l says whether query l of the tile sees the key
    lanes: NDArray[np.uint32]

    def is_sound(self, n_queries: int, n_keys: int) -> bool:
        lanes = self.lanes
        typed = lanes.dtype == np.uint32 and lanes.shape == self.key_tiles.shape and lanes.flags.c_contiguous
        return typed and super().is_sound(n_queries, n_keys)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NumberedLanePlan(LanePlan):
    """A plan of lanes with the number that each pair has in a relation.

    Examples
    --------
    >>> rel = ga.relations.offsets(ga.window(ga.grids.cartesian(64), 9))
    >>> ga.plans.numbered_plan(rel).count
    17
    """

    #: numbers lie in [0, count)
    count: int
    #: int32 [n_entries, 32]: the number of each query of the tile with the key, ``count`` of one that it does
    #: not see
    numbers: NDArray[np.int32]

    def is_sound(self, n_queries: int, n_keys: int) -> bool:
        numbers, shape = self.numbers, (len(self.key_tiles), self.query_tile)
        typed = numbers.dtype == np.int32 and numbers.shape == shape and numbers.flags.c_contiguous
        within = typed and _within(numbers.reshape(-1), self.count + 1)
        return within and super().is_sound(n_queries, n_keys)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TilePlan(Plan):
    """For tensor cores: tiles of 64 queries by 64 keys, with the masks of those that are not full.

    Examples
    --------
    >>> plan = ga.plans.tile_plan(ga.window(ga.grids.cartesian(256), 9))
    >>> plan.query_tile, plan.key_tile
    (64, 64)
    """

    query_tile: ClassVar[int] = 64
    key_tile: ClassVar[int] = 64

    #: int32 [n_entries]: −1 where every query sees every key of the tile, else a row of ``masks``
    mask_ids: NDArray[np.int32]
    #: uint64 [n_masks, 64]: bit j of row i says whether query i sees key j; equal masks are stored once
    masks: NDArray[np.uint64]
    #: uint32 [n_masks]: bit ``8 * (i // 16) + j // 8`` says whether that 16×8 group holds any visible pair
    groups: NDArray[np.uint32]

    def is_sound(self, n_queries: int, n_keys: int) -> bool:
        ids, masks, groups = self.mask_ids, self.masks, self.groups
        typed = (
            ids.dtype == np.int32
            and masks.dtype == np.uint64
            and groups.dtype == np.uint32
            and ids.shape == self.key_tiles.shape
            and masks.ndim == 2
            and masks.shape[1] == self.query_tile
            and groups.shape == masks.shape[:1]
            and all(array.flags.c_contiguous for array in (ids, masks, groups))
        )
        return bool(typed and _within(ids + 1, len(masks) + 1) and super().is_sound(n_queries, n_keys))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NumberedTilePlan(TilePlan):
    """A plan for tensor cores with the number that each pair has in a relation.

    Examples
    --------
    >>> rel = ga.relations.offsets(ga.window(ga.grids.cartesian(64), 9))
    >>> type(ga.plans.numbered_tile_plan(rel)).__name__
    'NumberedTilePlan'
    """

    #: numbers lie in [0, count)
    count: int
    #: int32 [n_entries]: a row of ``numbers``
    number_ids: NDArray[np.int32]
    #: int32 [n, 64, 64]: the number of query i with key j, 0 where it does not see it; equal tiles are stored
    #: once
    numbers: NDArray[np.int32]

    def is_sound(self, n_queries: int, n_keys: int) -> bool:
        ids, numbers = self.number_ids, self.numbers
        typed = (
            ids.dtype == numbers.dtype == np.int32
            and ids.shape == self.key_tiles.shape
            and numbers.shape == (len(numbers), self.query_tile, self.key_tile)
            and all(array.flags.c_contiguous for array in (ids, numbers))
        )
        within = typed and _within(ids, len(numbers)) and _within(numbers.reshape(-1), self.count)
        return within and super().is_sound(n_queries, n_keys)


def _within(numbers: NDArray[np.int32], stop: int) -> bool:
    return not len(numbers) or (int(numbers.min()) >= 0 and int(numbers.max()) < stop)


def _holds_each_once(order: NDArray[np.int32], size: int) -> bool:
    """Whether an order holds every token once, beside padding."""
    if not _within(order + 1, size + 1):
        return False
    return bool((np.bincount(order + 1, minlength=size + 1)[1:] == 1).all())
