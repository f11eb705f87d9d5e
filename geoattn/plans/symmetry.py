"""Which query tiles see the same keys up to a shift.

Both symmetries of the library have one form here: along each line of the query layout, pieces fall
into classes, and each piece carries a shift of the key tiles against the first of its class. The
class of a tile is the tuple of its pieces' classes, its shift the sum of their shifts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import common
from geoattn.plans.layout import Layout, ring_line
from geoattn.relations.base import Relation


class Classes(NamedTuple):
    """Class and shift of each query tile, and the number of key tiles within which shifts wrap."""

    tile_class: NDArray[np.int32]
    tile_shift: NDArray[np.int32]
    ring: int


class _Pieces(NamedTuple):
    """Class of each piece of a line, and its shift in key tiles."""

    label: NDArray[np.int64]
    shift: NDArray[np.int64]


def classes(hood: Neighborhood, queries: Layout, keys: Layout, relation: Relation | None = None) -> Classes:
    """Classes of the query tiles, by whichever symmetry of the neighborhood leaves fewest.

    With a relation, by one that it shares.
    """
    ways = _moved(hood, queries, keys, relation), _turned(hood, queries, keys, relation)
    found = [_combined(*way) for way in ways if way is not None]
    if not found:
        return Classes(
            np.arange(queries.n_tiles, dtype=np.int32),
            np.zeros(queries.n_tiles, dtype=np.int32),
            keys.n_tiles,
        )
    return min(found, key=lambda way: int(way.tile_class.max(initial=-1)))


def _combined(pieces: list[_Pieces], ring: int) -> Classes:
    label = np.zeros(1, dtype=np.int64)
    shift = np.zeros(1, dtype=np.int64)
    for piece in pieces:
        label = (label[:, None] * (piece.label.max() + 1) + piece.label).reshape(-1)
        shift = (shift[:, None] + piece.shift).reshape(-1)
    _, first, tile_class = np.unique(label, return_index=True, return_inverse=True)
    tile_shift = (shift - shift[first][tile_class]) % ring
    return Classes(tile_class.astype(np.int32), tile_shift.astype(np.int32), ring)


def _moved(
    hood: Neighborhood, queries: Layout, keys: Layout, relation: Relation | None
) -> tuple[list[_Pieces], int] | None:
    """Products of patterns along axes: pieces whose patterns differ by whole key tiles are alike.

    No key leaves its line when such a pattern moves, so that moves along several lines add up to one
    shift of the row-major tile number. Patterns are counted from the tile of their first query, between
    two grids from that of their first key.
    """
    if hood.axes is None or (relation is not None and relation.along is None):
        return None
    pieces = []
    for line, axis in enumerate(hood.axes):
        width = keys.widths[line]
        position = keys.places[line]
        seen: dict[bytes, int] = {}
        label = np.zeros(queries.pieces[line], dtype=np.int64)
        tile = np.zeros(queries.pieces[line], dtype=np.int64)
        for piece, places in enumerate(queries.lines[line].reshape(len(label), -1)):
            held = places[places >= 0].astype(np.int64)
            indptr, indices = axis.rows(held)
            anchor = held if hood.query_grid == hood.key_grid else indices
            if len(anchor):
                tile[piece] = position[anchor[0]] // width
            pattern = position[indices] - tile[piece] * width
            content = (places >= 0).tobytes() + indptr.tobytes() + pattern.tobytes()
            if relation is not None and relation.along is not None:
                pairs = np.repeat(held, np.diff(indptr)), indices.astype(np.int64)
                numbers = relation.along[line].numbers(*pairs)
                content += numbers.tobytes()
            label[piece] = seen.setdefault(content, len(seen))
        pieces.append(_Pieces(label, tile * math.prod(keys.pieces[line + 1 :])))
    return pieces, keys.n_tiles


def _turned(
    hood: Neighborhood, queries: Layout, keys: Layout, relation: Relation | None
) -> tuple[list[_Pieces], int] | None:
    """Turns of rings, where rings are walked as they come.

    Rings of keys must be made of whole tiles. The last piece of a ring of queries may be a rest:
    turning the first pieces onto later ones never passes the end.
    """
    rotation = hood.rotation if relation is None else common(hood.rotation, relation.rotation)
    if rotation is None:
        return None
    query = _Ring.find(queries, rotation.query_ring, rotation.query_step)
    key = _Ring.find(keys, rotation.key_ring, rotation.key_step)
    if query is None or key is None or key.places % key.width:
        return None
    # the fewest pieces of the query ring whose turn moves the keys by whole pieces too
    turn = math.lcm(query.step, query.width) // query.step
    period = next((n for n in range(turn, query.places, turn) if n * key.step % key.width == 0), None)
    if period is None or period * query.step >= query.places:
        return None
    n_period = period * query.step // query.width
    shift = period * key.step // key.width * key.inner_tiles
    whole = query.places // query.width
    n_pieces = -(-query.places // query.width)
    ring_number, place = np.divmod(np.arange(queries.pieces[query.line]), n_pieces)
    rest = place == whole
    label = ring_number * (n_period + 1) + np.where(rest, n_period, place % n_period)
    pieces = [_Pieces(np.arange(n), np.zeros(n, dtype=np.int64)) for n in queries.pieces]
    pieces[query.line] = _Pieces(label, np.where(rest, 0, place // n_period * shift))
    return pieces, key.places // key.width * key.inner_tiles


class _Ring(NamedTuple):
    """A ring on its line: places around it, places per step, places per piece, and tiles per piece."""

    line: int
    places: int
    step: int
    width: int
    inner_tiles: int

    @classmethod
    def find(cls, layout: Layout, ring: int, step: int) -> _Ring | None:
        found = ring_line(layout.shape, ring)
        if found is None:
            return None
        line, places = found
        inner, width, length = ring // places, layout.widths[line], layout.shape[line]
        whole = places % width == 0 or places == length  # pieces do not straddle two rings
        if step % inner or not whole or not np.array_equal(layout.lines[line][:length], np.arange(length)):
            return None
        return cls(line, places, step // inner, width, math.prod(layout.pieces[line + 1 :]))
