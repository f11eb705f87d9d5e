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

from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood

Numbers = NDArray[np.int32]

#: tiles looked at when boxes are compared
_SAMPLES = 6


@singledispatch
def lines(grid: Grid) -> tuple[Numbers, ...]:
    """The lines whose product is the grid: for each, the order in which to walk its places."""
    return tuple(np.arange(n, dtype=np.int32) for n in grid.shape)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Boxes of ``widths`` places, one per tile of ``tile`` positions.

    ``lines[a]`` lists the places along line a in walking order, −1 where it is padded; its length
    is a multiple of ``widths[a]``. The token at places (x, y, …) has the row-major number of
    ``shape``, the lengths of the lines without padding.
    """

    tile: int
    shape: tuple[int, ...]
    lines: tuple[Numbers, ...]
    widths: tuple[int, ...]

    @cached_property
    def pieces(self) -> tuple[int, ...]:
        """Number of tiles along each line; tiles are numbered row-major."""
        return tuple(len(line) // width for line, width in zip(self.lines, self.widths, strict=True))

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
        filled = np.flatnonzero(self.order >= 0).astype(np.int32)
        positions = np.empty(len(filled), dtype=np.int32)
        positions[self.order[filled]] = filled
        return positions

    def tokens(self, tiles: NDArray[np.int64]) -> Numbers:
        """Tokens of the given tiles, padding left out."""
        tokens = self.order.reshape(-1, self.tile)[tiles].reshape(-1)
        return tokens[tokens >= 0]


def natural(grid: Grid) -> Layout:
    """Every token its own tile, in the order of the grid."""
    places = lines(grid)
    shape = tuple(len(line) for line in places)
    walks = tuple(np.arange(n, dtype=np.int32) for n in shape)
    return Layout(1, shape, walks, (1,) * len(shape))


def choose(hood: Neighborhood, query_tile: int, key_tile: int) -> tuple[Layout, Layout]:
    """Layouts of queries and keys that visit few tile pairs, judged on a sample of tiles.

    Queries are boxed so that those of a tile share their keys; keys are then boxed so that the
    keys of a query tile fill few tiles.
    """
    query_lines, key_lines = lines(hood.query_grid), lines(hood.key_grid)
    pitch = _pitch(hood, key_lines)
    same = hood.query_grid == hood.key_grid
    widths = _spans(hood, key_lines, pitch)

    def candidates(walks: tuple[Numbers, ...], tile: int, ring: int | None, dilated: bool) -> list[Layout]:
        shape = tuple(len(walk) for walk in walks)
        steps = pitch if dilated else (1,) * len(shape)
        return [
            Layout(tile, shape, tuple(map(_cut, walks, box, steps)), box)
            for box in _boxes(shape, steps, tile, ring, widths if dilated else ())
        ]

    rotation = hood.rotation
    queries = candidates(query_lines, query_tile, rotation and rotation.query_ring, same)
    tokens = np.arange(hood.key_grid.size, dtype=np.int32)
    query_layout = min(queries, key=lambda layout: _visits(hood, layout, tokens))
    if key_tile == 1:
        return query_layout, natural(hood.key_grid)
    keys = candidates(key_lines, key_tile, rotation and rotation.key_ring, True)
    if len(keys) == 1:
        return query_layout, keys[0]
    return query_layout, min(
        keys, key=lambda layout: _visits(hood, query_layout, layout.positions // key_tile)
    )


def _cut(walk: Numbers, width: int, step: int) -> Numbers:
    """A line in pieces of ``width``: places of equal residue modulo ``step`` come together."""
    length = -(-len(walk) // (step * width)) * width
    cut = np.full((step, length), -1, dtype=np.int32)
    for residue in range(step):
        chosen = walk[residue::step]
        cut[residue, : len(chosen)] = chosen
    return cut.reshape(-1)


def _boxes(
    shape: tuple[int, ...], steps: tuple[int, ...], tile: int, ring: int | None, spans: tuple[int, ...]
) -> Iterator[tuple[int, ...]]:
    """Boxes that nearly fill a tile; the last width divides ``ring`` so that rings close on tiles."""
    if len(shape) == 1:
        yield (tile,)
        return
    choices: list[set[int]] = []
    for axis, length in enumerate(shape):
        length = -(-length // steps[axis])
        widths = {w for w in (1 << b for b in range(tile.bit_length())) if w < 2 * length}
        widths |= {w for w in (length, *spans[axis : axis + 1]) if w <= tile}
        choices.append(widths)
    if ring is not None:
        divisors = {w for w in range(1, tile + 1) if ring % w == 0}
        binary = {w for w in divisors & choices[-1] if w >= min(4, tile)}
        choices[-1] = binary or divisors
    full = max(math.prod(box) for box in itertools.product(*choices) if math.prod(box) <= tile)
    for box in itertools.product(*choices):
        if 0.75 * full <= math.prod(box) <= tile:
            yield box


def _visits(hood: Neighborhood, layout: Layout, key_tiles: Numbers) -> float:
    """Estimated number of tile pairs, where ``key_tiles`` says in which tile each key lies."""
    n_samples = min(_SAMPLES, layout.n_tiles)
    sample = (2 * np.arange(n_samples) + 1) * layout.n_tiles // (2 * n_samples)
    visited = 0
    for tile in sample:
        queries = layout.tokens(np.array([tile])).astype(np.int64)
        visited += len(np.unique(key_tiles[hood.rows(queries).indices]))
    return visited * layout.n_tiles / n_samples


def _sampled_places(hood: Neighborhood, walks: tuple[Numbers, ...]) -> list[list[Numbers]]:
    """For some queries, the distinct places of their keys along each line, ascending."""
    size = hood.query_grid.size
    queries = np.unique(np.linspace(0, size - 1, 16).astype(np.int64))
    shape = tuple(len(walk) for walk in walks)
    ranks = tuple(np.argsort(walk).astype(np.int32) for walk in walks)
    indptr, indices = hood.rows(queries)
    sampled = []
    for start, end in itertools.pairwise(indptr):
        places = np.unravel_index(indices[start:end], shape)
        sampled.append([np.unique(rank[place]) for rank, place in zip(ranks, places, strict=True)])
    return sampled


def _pitch(hood: Neighborhood, walks: tuple[Numbers, ...]) -> tuple[int, ...]:
    """Common step between the keys of a query along each line: the dilation, where there is one."""
    if hood.rotation is not None:
        return (1,) * len(walks)
    steps = [0] * len(walks)
    for places in _sampled_places(hood, walks):
        steps = [math.gcd(step, *np.diff(place).tolist()) for step, place in zip(steps, places, strict=True)]
    return tuple(max(step, 1) for step in steps)


def _spans(hood: Neighborhood, walks: tuple[Numbers, ...], pitch: tuple[int, ...]) -> tuple[int, ...]:
    """Typical number of distinct places of a query's keys along each line."""
    counts = np.array([[len(place) for place in places] for places in _sampled_places(hood, walks)])
    return tuple(max(1, int(n)) for n in np.median(counts, axis=0))


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
