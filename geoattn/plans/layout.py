"""Layouts: tokens of a grid cut into boxes of neighbors, one box per tile.

A grid is seen as a product of lines. A plane or a lat-lon grid has one line per axis; point sets
and HEALPix have a single line that runs through all their points. A layout cuts each line into
pieces and makes a tile of each product of pieces, so that one construction serves every grid.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from functools import cached_property, singledispatch

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, PointSet
from geoattn.grids.healpix import HEALPix
from geoattn.grids.orders import order
from geoattn.grids.product import ProductGrid
from geoattn.neighborhoods.base import Neighborhood

Numbers = NDArray[np.int32]
Lines = tuple[Numbers, ...]
Widths = tuple[int, ...]

#: tiles looked at when boxes are compared
_SAMPLES = 6


@singledispatch
def lines(grid: Grid, leaf: int) -> Lines:
    """The lines whose product is the grid: for each, the order in which to walk its places.

    Lines through a set of points keep every ``leaf`` of them together.
    """
    return tuple(np.arange(n, dtype=np.int32) for n in grid.shape)


@lines.register
def _(grid: PointSet, leaf: int) -> Lines:
    return (order(grid, "bisection", leaf=leaf),)


@lines.register
def _(grid: HEALPix, leaf: int) -> Lines:
    return (order(grid, "morton"),)  # the nested order, where nside has one


@lines.register
def _(grid: ProductGrid, leaf: int) -> Lines:
    return tuple(line for factor in grid.factors for line in lines(factor, leaf))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes of ``widths`` places, one per tile of ``tile`` positions.

    ``lines[a]`` lists the places along line a in walking order, −1 where it is padded; its length
    is a multiple of ``widths[a]``. The token at places (x, y, …) has the row-major number of
    ``shape``, the lengths of the lines without padding.
    """

    tile: int
    shape: Widths
    lines: Lines
    widths: Widths

    @cached_property
    def pieces(self) -> tuple[int, ...]:
        """Number of tiles along each line; tiles are numbered row-major."""
        return tuple(len(line) // width for line, width in zip(self.lines, self.widths, strict=True))

    @cached_property
    def places(self) -> tuple[NDArray[np.int64], ...]:
        """For each line, where in its walk each place comes: the inverse of :attr:`lines`."""
        return tuple(_inverse(line) for line in self.lines)

    @property
    def n_tiles(self) -> int:
        return math.prod(self.pieces)

    @cached_property
    def order(self) -> Numbers:
        """Position → token, −1 for padding, ``[n_tiles * tile]``."""
        rank = len(self.shape)
        boxes = np.zeros((1,) * (2 * rank), dtype=np.int32)
        padded = np.zeros((1,) * (2 * rank), dtype=bool)
        for axis, line in enumerate(self.lines):
            view = [1] * (2 * rank)
            view[axis], view[rank + axis] = self.pieces[axis], self.widths[axis]
            places = line.reshape(view)
            boxes = boxes + places * np.int32(math.prod(self.shape[axis + 1 :]))
            padded = padded | (places < 0)
        tokens = np.where(padded, np.int32(-1), boxes).reshape(self.n_tiles, -1)
        order = np.full((self.n_tiles, self.tile), -1, dtype=np.int32)
        order[:, : tokens.shape[1]] = tokens[:, _interleaved(self.widths)]
        return order.reshape(-1)

    @cached_property
    def positions(self) -> Numbers:
        """Token → position, the inverse of :attr:`order`."""
        return _inverse(self.order).astype(np.int32)

    def tokens(self, tile: int) -> NDArray[np.int64]:
        """Tokens of one tile, padding left out, in row-major order of its box."""
        tokens = np.zeros(1, dtype=np.int64)
        pieces = np.unravel_index(tile, self.pieces)
        for length, line, width, piece in zip(self.shape, self.lines, self.widths, pieces, strict=True):
            places = line[piece * width : (piece + 1) * width]
            tokens = (tokens[:, None] * length + places[places >= 0]).reshape(-1)
        return tokens

    def tiles_of(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tile that each token lies in."""
        places = np.unravel_index(tokens, self.shape)
        tiles = np.zeros(len(tokens), dtype=np.int64)
        for pieces, walked, place, width in zip(self.pieces, self.places, places, self.widths, strict=True):
            tiles = tiles * pieces + walked[place] // width
        return tiles


def natural(shape: Widths) -> Layout:
    """Every token its own tile, in row-major order."""
    return Layout(1, shape, tuple(np.arange(n, dtype=np.int32) for n in shape), (1,) * len(shape))


def choose(hood: Neighborhood, query_tile: int, key_tile: int) -> tuple[Layout, Layout]:
    """Layouts of queries and keys that visit few tile pairs, judged on a sample of tiles.

    Queries are boxed so that those of a tile share their keys; keys are then boxed so that the
    keys of a query tile fill few tiles.
    """
    rotation = hood.rotation if hood.axes is None else None
    key_lines = lines(hood.key_grid, max(key_tile, query_tile))
    pitch, spans = _spacing(hood, key_lines)
    if rotation is not None:
        pitch = (1,) * len(pitch)  # rings are walked as they come

    def candidates(walks: Lines, tile: int, ring: int | None, pitch: Widths, spans: Widths) -> list[Layout]:
        shape = tuple(len(walk) for walk in walks)
        return [
            Layout(tile, shape, tuple(map(_cut, walks, box, pitch)), box)
            for box in _boxes(shape, pitch, spans, tile, ring)
        ]

    if hood.query_grid == hood.key_grid:
        queries = candidates(key_lines, query_tile, rotation and rotation.query_ring, pitch, spans)
    else:
        query_lines = lines(hood.query_grid, query_tile)
        single = (1,) * len(query_lines)
        queries = candidates(query_lines, query_tile, rotation and rotation.query_ring, single, single)
    query_layout = min(queries, key=lambda q: q.n_tiles * sum(len(k) for k in _sampled_keys(hood, q)))
    if key_tile == 1:
        return query_layout, natural(tuple(map(len, key_lines)))
    keys = candidates(key_lines, key_tile, rotation and rotation.key_ring, pitch, spans)
    seen = _sampled_keys(hood, query_layout) if len(keys) > 1 else []
    return query_layout, min(keys, key=lambda k: sum(len(np.unique(k.tiles_of(tokens))) for tokens in seen))


def _cut(walk: Numbers, width: int, step: int) -> Numbers:
    """A line in pieces of ``width``: places of equal residue modulo ``step`` come together."""
    length = -(-len(walk) // (step * width)) * width
    cut = np.full((step, length), -1, dtype=np.int32)
    for residue in range(step):
        chosen = walk[residue::step]
        cut[residue, : len(chosen)] = chosen
    return cut.reshape(-1)


def _boxes(shape: Widths, pitch: Widths, spans: Widths, tile: int, ring: int | None) -> Iterator[Widths]:
    """Boxes that nearly fill a tile; the last width divides ``ring`` so that rings close on tiles."""
    if len(shape) == 1:
        yield (tile,)
        return
    choices: list[set[int]] = []
    for length, step, span in zip(shape, pitch, spans, strict=True):
        length = -(-length // step)
        widths = {w for w in (1 << bit for bit in range(tile.bit_length())) if w < 2 * length}
        choices.append(widths | {w for w in (length, span) if w <= tile})
    if ring is not None:
        divisors = {w for w in range(1, tile + 1) if ring % w == 0}
        choices[-1] = {w for w in divisors & choices[-1] if w >= 4} or divisors
    boxes = [box for box in itertools.product(*choices) if math.prod(box) <= tile]
    fullest = max(math.prod(box) for box in boxes)
    yield from (box for box in boxes if math.prod(box) >= 0.75 * fullest)


def _sampled_keys(hood: Neighborhood, queries: Layout) -> list[NDArray[np.int64]]:
    """The keys that some query tiles see, spread evenly over all of them."""
    sample = (2 * np.arange(_SAMPLES) + 1) * queries.n_tiles // (2 * _SAMPLES)
    keys = []
    for tile in sample.tolist():
        seen = np.zeros(hood.key_grid.size, dtype=bool)
        seen[hood.rows(queries.tokens(tile)).indices] = True
        keys.append(np.flatnonzero(seen))
    return keys


def _spacing(hood: Neighborhood, walks: Lines) -> tuple[Widths, Widths]:
    """Along each line, the common step between the keys of a query (its dilation, where there is
    one), and the typical number of distinct places that they take."""
    queries = np.unique(np.linspace(0, hood.query_grid.size - 1, 16).astype(np.int64))
    indptr, indices = hood.rows(queries)
    pitch, spans = [], []
    for walk, places in zip(walks, np.unravel_index(indices, tuple(map(len, walks))), strict=True):
        taken = [np.unique(row) for row in np.split(_inverse(walk)[places], indptr[1:-1])]
        pitch.append(max(1, math.gcd(*np.concatenate([np.diff(row) for row in taken]).tolist())))
        spans.append(max(1, int(np.median([len(row) for row in taken]))))
    return tuple(pitch), tuple(spans)


def _inverse(order: Numbers) -> NDArray[np.int64]:
    """Where in an order each number comes, padding left out."""
    filled = np.flatnonzero(order >= 0)
    inverse = np.empty(len(filled), dtype=np.int64)
    inverse[order[filled]] = filled
    return inverse


def _interleaved(widths: tuple[int, ...]) -> NDArray[np.int64]:
    """Places of a box along a Z-order curve, so that parts of a tile are compact too."""
    places = np.indices(widths).reshape(len(widths), -1)
    code = np.zeros(places.shape[1], dtype=np.int64)
    shift = 0
    for bit in range(max(widths).bit_length()):
        for axis in reversed(range(len(widths))):
            if 1 << bit < widths[axis]:
                code |= ((places[axis] >> bit) & 1) << shift
                shift += 1
    return np.argsort(code, kind="stable")
