"""From a neighborhood to its plan, a bounded number of edges at a time."""

from __future__ import annotations

import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._threads import one_ahead
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Rows
from geoattn.plans import kernels
from geoattn.plans.base import LanePlan, NumberedLanePlan, NumberedTilePlan, TilePlan
from geoattn.plans.boxes import choose
from geoattn.plans.layout import Layout, interleaved
from geoattn.plans.symmetry import classes
from geoattn.relations.base import NumberedRows, Relation

_AnyRows = Rows | NumberedRows

#: edges held in memory at once, roughly
_EDGES_AT_ONCE = 2_000_000

#: bytes of numbers that a core's second cache holds beside the rest, whatever the order of the tiles
_CACHED = 1 << 18

#: queries that a processor's vector lanes take at once, at least
GROUP = 8


def shape_of(of: Neighborhood | Relation, query_tile: int, key_tile: int) -> type[LanePlan] | type[TilePlan]:
    """The kind of plan of a neighborhood or a relation with tiles of that shape.

    Raises
    ------
    ValueError
        If there is none.
    """
    kinds = (NumberedTilePlan, NumberedLanePlan) if isinstance(of, Relation) else (TilePlan, LanePlan)
    for kind in kinds:
        if (query_tile, key_tile) == (kind.query_tile, kind.key_tile):
            return kind
    raise ValueError(
        f"tiles of {query_tile}×{key_tile} are not supported; "
        "use 64×64 (tensor cores) or 32×1 (vector lanes with gathered keys)"
    )


def build(of: Neighborhood | Relation, query_tile: int = 64, key_tile: int = 64) -> LanePlan | TilePlan:
    """Lay a neighborhood out in tiles.

    Parameters
    ----------
    of
        The neighborhood, or a relation: then the plan of its neighborhood with the number of each pair, a
        :class:`NumberedTilePlan` or :class:`NumberedLanePlan`.
    query_tile, key_tile
        (64, 64) for tensor cores, or (32, 1) for the vector lanes of a CPU.

    Raises
    ------
    ValueError
        For any other tile shape.

    Examples
    --------
    >>> ga.plans.build(ga.window(ga.grids.cartesian(256), 9), 32, 1).query_tile
    32
    """
    kind = shape_of(of, query_tile, key_tile)
    relation = of if isinstance(of, Relation) else None
    hood = of if isinstance(of, Neighborhood) else of.hood
    query_layout, key_layout = choose(hood, query_tile, key_tile)
    tile_class, tile_shift, ring = classes(hood, query_layout, key_layout, relation)
    _, first = np.unique(tile_class, return_index=True)
    lists: _Lanes | _Masks
    if issubclass(kind, TilePlan):
        lists = _Masks(key_layout) if relation is None else _NumberedMasks(key_layout, relation.count)
    else:
        lists = _Lanes(key_layout) if relation is None else _NumberedLanes(key_layout, relation.count)
    tiles = query_layout.order.reshape(-1, query_tile)[first]
    with one_ahead(_chunks(of, tiles)) as chunks:
        counts = [lists.add(*chunk) for chunk in chunks]
    shared: dict[str, Any] = {
        "query_order": query_layout.order,
        "key_order": key_layout.order,
        "tile_class": tile_class,
        "tile_shift": tile_shift,
        "ring": ring,
        "indptr": np.concatenate([[0], np.cumsum(np.concatenate(counts))]),
    }
    plan = kind(**shared, **lists.result())
    if isinstance(plan, TilePlan):
        return plan
    places = interleaved(query_layout.pieces)
    if isinstance(plan, NumberedLanePlan) and plan.numbers.nbytes > _CACHED:
        # so that a cache holds what is added to the scores of one class, and the gradients of that
        places = places[np.argsort(tile_class[places], kind="stable")]
    return _renumbered(_grouped(plan), places)


def _renumbered(plan: LanePlan, tiles: NDArray[np.int64]) -> LanePlan:
    """Number the query tiles in another order: near ones share keys, which a cache then still holds."""
    return dataclasses.replace(
        plan,
        query_order=plan.query_order.reshape(-1, plan.query_tile)[tiles].reshape(-1),
        tile_class=plan.tile_class[tiles],
        tile_shift=plan.tile_shift[tiles],
    )


def _grouped(plan: LanePlan) -> LanePlan:
    """Arrange the queries of each class of tiles so that few groups of lanes see each key.

    Near a pole a disc is far wider in longitudes than in latitudes, at the equator it is not: one
    arrangement does not suit all.
    """
    choices = _arrangements(plan.query_tile, GROUP)
    words = (1 << choices.reshape(len(choices), -1, GROUP)).sum(2).astype(np.uint32)
    query_order, lanes = plan.query_order.reshape(-1, plan.query_tile), plan.lanes
    best = np.zeros(len(plan.indptr) - 1, dtype=np.int64)
    for label, (start, end) in enumerate(itertools.pairwise(plan.indptr)):
        best[label] = np.argmin(kernels.count_groups(lanes[start:end], words))
        if best[label] > 0:
            kernels.permute_lanes(lanes[start:end], choices[best[label]])
            if isinstance(plan, NumberedLanePlan):
                plan.numbers[start:end] = plan.numbers[start:end, choices[best[label]]]
    query_order = np.take_along_axis(query_order, choices[best[plan.tile_class]], axis=1)
    return dataclasses.replace(plan, query_order=query_order.reshape(-1))  # the rest, in place


def _arrangements(tile: int, group: int) -> NDArray[np.int64]:
    """Orders of the positions of a tile ``[n, tile]``: each brings other bits of the position to the end.

    Positions follow a Z-order curve, so that their bits are those of the places along the axes. The
    first order leaves them alone.
    """
    positions = np.arange(tile)
    bits = range(tile.bit_length() - 1)
    orders = []
    for inner in itertools.combinations(bits, group.bit_length() - 1):
        outer = [bit for bit in bits if bit not in inner]
        rank = sum((positions >> bit & 1) << place for place, bit in enumerate([*inner, *outer]))
        orders.append(np.argsort(rank))
    return np.stack(orders)


def _chunks(
    of: Neighborhood | Relation, tiles: NDArray[np.int32]
) -> Iterator[tuple[_AnyRows, NDArray[np.int64]]]:
    """The rows of some query tiles at a time, with the row of each query, −1 for padding."""
    start, step = 0, 16
    while start < len(tiles):
        chunk = tiles[start : start + step]
        held = chunk >= 0
        rows = of.rows(chunk[held].astype(np.int64))
        yield rows, np.where(held, np.cumsum(held).reshape(held.shape) - 1, -1)
        start += len(chunk)
        edges_per_tile = max(1, len(rows.indices) // len(chunk))
        step = int(np.clip(_EDGES_AT_ONCE // edges_per_tile, 1, 4 * step))


class _Lists(ABC):
    """Lists of key tiles, gathered chunk by chunk."""

    def __init__(self, key_layout: Layout) -> None:
        self.positions = key_layout.positions
        self.key_tile = key_layout.tile
        self.seen = np.full(key_layout.n_tiles, -1, dtype=np.int32)
        self.n_done = 0
        self.keys: list[NDArray[np.int32]] = []

    def add(self, rows: _AnyRows, row_of_query: NDArray[np.int64]) -> NDArray[np.int64]:
        """Append the lists of some query tiles; returns their lengths.

        ``row_of_query [n_tiles, query_tile]`` names the row of each query, −1 for padding.
        """
        counts: NDArray[np.int64] = kernels.count_entries(
            *rows[:2], row_of_query, self.positions, self.key_tile, self.seen, self.n_done
        )
        self.n_done += len(counts)
        self.fill(rows, row_of_query, np.concatenate([[0], np.cumsum(counts)]))
        return counts

    @abstractmethod
    def fill(self, rows: _AnyRows, row_of_query: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        """Make the entries, those of tile t from ``starts[t]`` to ``starts[t + 1]``."""

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """The arrays of the plan that hold the entries."""


class _Lanes(_Lists):
    """Single keys with a word of query lanes each."""

    def __init__(self, key_layout: Layout) -> None:
        super().__init__(key_layout)
        self.scratch = np.zeros(key_layout.n_tiles, dtype=np.uint32)
        self.lanes: list[NDArray[np.uint32]] = []

    def fill(self, rows: _AnyRows, row_of_query: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        keys, lanes = kernels.fill_lanes(*rows[:2], row_of_query, self.positions, starts, self.scratch)
        self.keys.append(keys)
        self.lanes.append(lanes)

    def result(self) -> dict[str, Any]:
        return {"key_tiles": _joined(self.keys), "lanes": _joined(self.lanes)}


class _NumberedLanes(_Lanes):
    """The same with the number of each query."""

    def __init__(self, key_layout: Layout, count: int) -> None:
        super().__init__(key_layout)
        self.count = count
        self.entry = np.zeros(key_layout.n_tiles, dtype=np.int64)
        self.numbers: list[NDArray[np.int32]] = []

    def fill(self, rows: _AnyRows, row_of_query: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        super().fill(rows, row_of_query, starts)
        assert isinstance(rows, NumberedRows)  # those of a relation
        filled = kernels.fill_numbers(
            *rows, row_of_query, self.positions, starts, self.keys[-1], self.entry, 1, self.count
        )
        self.numbers.append(filled[..., 0])

    def result(self) -> dict[str, Any]:
        return super().result() | {"count": self.count, "numbers": _joined(self.numbers)}


class _Masks(_Lists):
    """Tiles of 64 keys with the number of a mask each."""

    def __init__(self, key_layout: Layout) -> None:
        super().__init__(key_layout)
        self.scratch = np.full(key_layout.n_tiles, -1, dtype=np.int64)
        self.ids: list[NDArray[np.int32]] = []
        self.known = _Interned(64)

    def fill(self, rows: _AnyRows, row_of_query: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        keys, masks = kernels.fill_masks(*rows[:2], row_of_query, self.positions, starts, self.scratch)
        self.keys.append(keys)
        self.ids.append(self.known.add(masks))

    def result(self) -> dict[str, Any]:
        masks = self.known.result()
        return {
            "key_tiles": _joined(self.keys),
            "mask_ids": _joined(self.ids),
            "masks": masks,
            "groups": kernels.group_bits(masks),
        }


class _NumberedMasks(_Masks):
    """The same with the number of a tile of numbers each."""

    def __init__(self, key_layout: Layout, count: int) -> None:
        super().__init__(key_layout)
        self.count = count
        self.entry = np.zeros(key_layout.n_tiles, dtype=np.int64)
        self.number_ids: list[NDArray[np.int32]] = []
        self.numbers = _Interned(64 * 64 // 2)

    def fill(self, rows: _AnyRows, row_of_query: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        super().fill(rows, row_of_query, starts)
        assert isinstance(rows, NumberedRows)  # those of a relation
        # tile by tile: entries of few edges are far larger than these
        for tile, (low, high) in enumerate(itertools.pairwise(starts)):
            filled = kernels.fill_numbers(
                *rows,
                row_of_query[tile : tile + 1],
                self.positions,
                np.array([0, high - low]),
                self.keys[-1][low:high],
                self.entry,
                self.key_tile,
                0,
            )
            self.number_ids.append(self.numbers.add(filled.reshape(high - low, 64 * 64).view(np.uint64)))

    def result(self) -> dict[str, Any]:
        return super().result() | {
            "count": self.count,
            "number_ids": _joined(self.number_ids),
            "numbers": self.numbers.result().view(np.int32).reshape(-1, 64, 64),
        }


class _Interned:
    """Rows of 64-bit words, of which equal ones are stored once."""

    def __init__(self, width: int) -> None:
        self.known = np.empty((0, width), dtype=np.uint64)
        self.n_known = 0
        self.table = np.full(1024, -1, dtype=np.int32)

    def add(self, rows: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The number of each row, −1 of one in which all bits are set."""
        self._reserve(self.n_known + len(rows))
        ids = np.empty(len(rows), dtype=np.int32)
        self.n_known = kernels.intern(rows, self.known, self.n_known, self.table, ids)
        return ids

    def result(self) -> NDArray[np.uint64]:
        """All rows in the order of their numbers."""
        self.known.resize((self.n_known, self.known.shape[1]), refcheck=False)
        return self.known

    def _reserve(self, n_rows: int) -> None:
        """Make room for ``n_rows`` different ones."""
        if n_rows > len(self.known):
            # grows in place where the system can
            self.known.resize((n_rows, self.known.shape[1]), refcheck=False)
        if 2 * n_rows > len(self.table):
            self.table = np.full(1 << (2 * n_rows).bit_length(), -1, dtype=np.int32)
            rows = self.known[: self.n_known]
            kernels.intern(rows, self.known, 0, self.table, np.empty(len(rows), dtype=np.int32))


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of all parts, which are let go."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole
