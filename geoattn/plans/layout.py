"""Layouts: tokens of a grid cut into boxes of neighbors, one box per tile.

A grid is seen as a product of lines. A plane or a lat-lon grid has one line per axis; point sets
and HEALPix have a single line that runs through all their points. A layout cuts each line into
pieces and makes a tile of each product of pieces, so that one construction serves every grid.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property, lru_cache, singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, PointSet, read_only
from geoattn.grids.healpix import HEALPix
from geoattn.grids.orders import order
from geoattn.grids.product import ProductGrid
from geoattn.grids.selection import Selection

Numbers = NDArray[np.int32]
Lines = tuple[Numbers, ...]
Widths = tuple[int, ...]


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
def _(grid: Selection, leaf: int) -> Lines:
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
        return tuple(inverse(line) for line in self.lines)

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
        order[:, : tokens.shape[1]] = tokens[:, interleaved(self.widths)]
        return order.reshape(-1)

    @cached_property
    def positions(self) -> Numbers:
        """Token → position, the inverse of :attr:`order`."""
        return inverse(self.order).astype(np.int32)

    def tokens(self, tile: Widths) -> NDArray[np.int64]:
        """Tokens of the tile of these pieces in the order of their positions, padding left out."""
        tokens, padded = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool)
        for length, line, width, piece in zip(self.shape, self.lines, self.widths, tile, strict=True):
            places = line[piece * width : (piece + 1) * width]
            tokens = (tokens[:, None] * length + places).reshape(-1)
            padded = (padded[:, None] | (places < 0)).reshape(-1)
        inside = interleaved(self.widths)
        return tokens[inside][~padded[inside]]

    def positions_of(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of some tokens."""
        tile, box = np.zeros((2, len(tokens)), dtype=np.int64)
        places = np.unravel_index(tokens, self.shape)
        for pieces, walked, place, width in zip(self.pieces, self.places, places, self.widths, strict=True):
            piece, inside = np.divmod(walked[place], width)
            tile, box = tile * pieces + piece, box * width + inside
        return tile * self.tile + inverse(interleaved(self.widths))[box]


def ring_line(shape: Widths, ring: int) -> tuple[int, int] | None:
    """The line along which rings of ``ring`` tokens turn, and the places that they take on it.

    A ring is a run of consecutive tokens: whole lines at the end of ``shape``, and part of, or all
    of, the line before. None if ``ring`` is no such run.
    """
    inner = 1
    for line in reversed(range(len(shape))):
        if ring % inner == 0 and shape[line] % (ring // inner) == 0:
            return line, ring // inner
        inner *= shape[line]
    return None


def natural(shape: Widths) -> Layout:
    """Every token its own tile, in row-major order."""
    return Layout(1, shape, tuple(np.arange(n, dtype=np.int32) for n in shape), (1,) * len(shape))


def cut(walk: Numbers, width: int, step: int) -> Numbers:
    """A line in pieces of ``width``: places of equal residue modulo ``step`` come together.

    Residues begin with a new piece, unless that would leave most of it empty.
    """
    residues = [walk[residue::step] for residue in range(step)]
    unit = width if len(residues[0]) >= width else 1
    padded = [np.pad(r, (0, -len(r) % unit), constant_values=-1) for r in residues]
    line = np.concatenate(padded)
    return np.pad(line, (0, -len(line) % width), constant_values=-1)


def inverse(order: NDArray[Any]) -> NDArray[np.int64]:
    """Where in an order each number comes, padding left out."""
    filled = np.flatnonzero(order >= 0)
    inverse = np.empty(len(filled), dtype=np.int64)
    inverse[order[filled]] = filled
    return inverse


@lru_cache(maxsize=64)
def interleaved(widths: tuple[int, ...]) -> NDArray[np.int64]:
    """Places of a box along a Z-order curve, so that parts of a tile are compact too."""
    places = np.indices(widths).reshape(len(widths), -1)
    code = np.zeros(places.shape[1], dtype=np.int64)
    shift = 0
    for bit in range(max(widths).bit_length()):
        for axis in reversed(range(len(widths))):
            if 1 << bit < widths[axis]:
                code |= ((places[axis] >> bit) & 1) << shift
                shift += 1
    return read_only(np.argsort(code, kind="stable"))
