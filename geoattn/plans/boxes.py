"""The choice of boxes: which layouts of queries and keys leave a kernel little to do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.curve import CurveWindow
from geoattn.plans import kernels
from geoattn.plans.layout import Layout, Lines, Widths, cut, inverse, lines, natural, ring_line

#: tiles looked at when boxes are compared
_SAMPLES = 24

#: cost of loading a gathered key for a tile, in units of multiplying a group of lanes with it
_GATHER = 0.1


class _Seen(NamedTuple):
    """What some tiles of queries see: group g the ``keys[ends[g]:ends[g + 1]]``, each once.

    Tile t has the groups ``tiles[t]`` … ``tiles[t + 1]``.
    """

    keys: NDArray[np.int64]
    ends: NDArray[np.int64]
    tiles: NDArray[np.int64]


def choose(hood: Neighborhood, query_tile: int, key_tile: int) -> tuple[Layout, Layout]:
    """Layouts of queries and keys that visit few tile pairs and few groups of them.

    All is judged on a sample of query tiles. On one grid, queries and keys are boxed alike. Between
    grids, and for single keys, queries are boxed so that those of a tile share their keys; keys are
    then boxed so that the keys of a query tile fill few tiles.
    """
    alike = hood.query_grid == hood.key_grid
    key_walks = _walks(hood, hood.key_grid, max(key_tile, query_tile))
    walks = key_walks if alike else _walks(hood, hood.query_grid, query_tile)
    pitch, spans = _spacing(hood, key_walks)
    single = (1,) * len(walks)
    ways = [_Way(pitch, None, None)]
    if hood.rotation is not None:
        rings = _Way((1,) * len(pitch), hood.rotation.query_ring, hood.rotation.key_ring)
        ways = [rings] if hood.axes is None else [*ways, rings]
    group = 16 if key_tile > 1 else 8  # queries that a kernel takes as one
    rests = key_tile == 1  # queries need not close a ring where keys are taken one by one
    queries: dict[tuple[Widths, Widths], tuple[Layout, _Way]] = {}
    for way in ways:
        steps, sizes = (way.pitch, spans) if alike else (single, single)
        for layout in _candidates(walks, steps, sizes, query_tile, way.query_ring, rests):
            queries.setdefault((steps, layout.widths), (layout, way))

    def cost(candidate: tuple[Layout, _Way]) -> float:
        layout, _ = candidate
        sample = _sample(hood, layout, group)
        return layout.n_tiles * (_filled(layout, sample) if boxed_alike else _shared(sample))

    boxed_alike = alike and query_tile == key_tile
    best, way = min(queries.values(), key=cost)
    if boxed_alike:
        return best, best
    if key_tile == 1:
        return best, natural(tuple(map(len, key_walks)))
    sample = _sample(hood, best, group)
    keys = _candidates(key_walks, way.pitch, spans, key_tile, way.key_ring, rests=False)
    return best, min(keys, key=lambda layout: _filled(layout, sample))


class _Way(NamedTuple):
    """How lines are cut: by the common step of a query's keys, or as rings, which are walked as they come."""

    pitch: Widths
    query_ring: int | None
    key_ring: int | None


@singledispatch
def _walks(hood: Neighborhood, grid: Grid, leaf: int) -> Lines:
    """The lines through a grid that suit the neighborhood: those of the grid, mostly."""
    return lines(grid, leaf)


@_walks.register
def _(hood: CurveWindow, grid: Grid, leaf: int) -> Lines:
    return (hood.order,)


def _candidates(
    walks: Lines, pitch: Widths, spans: Widths, tile: int, ring: int | None, rests: bool
) -> list[Layout]:
    """Layouts with boxes that nearly fill a tile; rings close on whole boxes, or on a rest of one."""
    shape = tuple(map(len, walks))
    boxes = [(tile,)] if len(shape) == 1 else list(_boxes(shape, pitch, spans, tile, ring, rests))
    return [Layout(tile, shape, tuple(map(cut, walks, box, pitch)), box) for box in boxes]


def _boxes(
    shape: Widths, pitch: Widths, spans: Widths, tile: int, ring: int | None, rests: bool
) -> Iterator[Widths]:
    choices: list[set[int]] = []
    for length, step, span in zip(shape, pitch, spans, strict=True):
        length = -(-length // step)
        widths = {w for w in (1 << bit for bit in range(tile.bit_length())) if w < 2 * length}
        choices.append(widths | {w for w in (length, span) if w <= tile})
    if ring is not None and (found := ring_line(shape, ring)):
        line, places = found
        closing = {w for w in range(1, tile + 1) if places % w == 0}
        choices[line] = closing | choices[line] if rests and places == shape[line] else closing
        if line > 0:  # rows fill up what such widths leave of a tile
            choices[line - 1] |= {tile // w for w in choices[line] if tile // w <= shape[line - 1]}
    boxes = [box for box in itertools.product(*choices) if math.prod(box) <= tile]
    fullest = max(math.prod(box) for box in boxes)
    return (box for box in boxes if math.prod(box) >= 0.75 * fullest)


def _sample(hood: Neighborhood, queries: Layout, group: int) -> _Seen:
    """For some query tiles along the diagonal of all: the keys of each ``group`` of their queries."""
    seen = np.full(hood.key_grid.size, -1, np.int64)
    found, groups, tiles = [], [np.zeros(1, np.int64)], [0]
    for at in (np.arange(_SAMPLES) + 0.5) / _SAMPLES:
        tokens = queries.tokens(tuple(int(at * n) for n in queries.pieces))
        indptr, indices = hood.rows(tokens)
        ends = indptr[np.append(np.arange(0, len(tokens), group), len(tokens))]
        keys, stops = kernels.distinct(indices, ends, seen, tiles[-1])
        found.append(keys)
        groups.append(groups[-1][-1] + stops)
        tiles.append(tiles[-1] + len(stops))
    return _Seen(np.concatenate(found), np.concatenate(groups), np.array(tiles))


def _shared(sample: _Seen) -> float:
    """Keys to be multiplied with on average over the groups of a tile, plus those to be gathered for it."""
    keys, ends, tiles = sample
    loaded = len(_distinct(keys, ends[tiles])[0])
    multiplied = sum(((np.diff(ends[tiles])) / np.diff(tiles)).tolist())
    return float(_GATHER * loaded + multiplied)


def _filled(layout: Layout, sample: _Seen) -> float:
    """The same count in key tiles, loaded whole, and in groups of eight keys, multiplied with whole."""
    keys, ends, tiles = sample
    positions = layout.positions_of(keys)
    eights = _distinct(positions // 8, ends)[1][tiles[1:] - 1]
    loaded = _distinct(positions // layout.tile, ends[tiles])[1]
    cost = 0.0
    for whole, few, groups in zip(
        np.diff(loaded, prepend=0).tolist(),
        np.diff(eights, prepend=0).tolist(),
        np.diff(tiles).tolist(),
        strict=True,
    ):
        cost += whole * layout.tile
        cost += few * 8 / groups
    return cost


def _distinct(values: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[Any, Any]:
    """The different ones of ``values[ends[i]:ends[i + 1]]``, and where those of each i end."""
    seen = np.full(values.max(initial=0) + 1, -1, np.int64)
    return kernels.distinct(values, ends, seen, 0)  # type: ignore[no-any-return]


def _spacing(hood: Neighborhood, walks: Lines) -> tuple[Widths, Widths]:
    """Along each line, the common step between the keys of a query (its dilation, where there is
    one), and the typical number of distinct places that they take."""
    queries = np.unique(np.linspace(0, hood.query_grid.size - 1, 16).astype(np.int64))
    indptr, indices = hood.rows(queries)
    pitch, spans = [], []
    for walk, places in zip(walks, np.unravel_index(indices, tuple(map(len, walks))), strict=True):
        taken = [np.unique(row) for row in np.split(inverse(walk)[places], indptr[1:-1])]
        pitch.append(max(1, math.gcd(*np.concatenate([np.diff(row) for row in taken]).tolist())))
        spans.append(max(1, int(np.median([len(row) for row in taken]))))
    return tuple(pitch), tuple(spans)
