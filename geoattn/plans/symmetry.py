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
from geoattn.plans.layout import Layout


class Classes(NamedTuple):
    """Class and shift of each query tile, and the number of key tiles within which shifts wrap."""

    tile_class: NDArray[np.int32]
    tile_shift: NDArray[np.int32]
    ring: int


class _Pieces(NamedTuple):
    """Class of each piece of a line, and its shift in key tiles."""

    label: NDArray[np.int64]
    shift: NDArray[np.int64]


def classes(hood: Neighborhood, queries: Layout, keys: Layout) -> Classes:
    """Classes of the query tiles, by whichever symmetry the neighborhood knows."""
    found = _moved(hood, queries, keys) or _turned(hood, queries, keys)
    if found is None:
        return Classes(
            np.arange(queries.n_tiles, dtype=np.int32),
            np.zeros(queries.n_tiles, dtype=np.int32),
            keys.n_tiles,
        )
    return _combined(*found)


def _combined(pieces: list[_Pieces], ring: int) -> Classes:
    label = np.zeros(1, dtype=np.int64)
    shift = np.zeros(1, dtype=np.int64)
    for piece in pieces:
        label = (label[:, None] * (piece.label.max() + 1) + piece.label).reshape(-1)
        shift = (shift[:, None] + piece.shift).reshape(-1)
    _, first, tile_class = np.unique(label, return_index=True, return_inverse=True)
    tile_shift = (shift - shift[first][tile_class]) % ring
    return Classes(tile_class.astype(np.int32), tile_shift.astype(np.int32), ring)


def _moved(hood: Neighborhood, queries: Layout, keys: Layout) -> tuple[list[_Pieces], int] | None:
    """Products of patterns along axes: pieces whose patterns differ by whole key tiles are alike.

    No key leaves its line when such a pattern moves, so that moves along several lines add up to one
    shift of the row-major tile number.
    """
    if hood.axes is None:
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
            if len(held):
                tile[piece] = position[held[0]] // width
            indptr, indices = axis.rows(held)
            pattern = position[indices] - tile[piece] * width
            content = (places >= 0).tobytes() + indptr.tobytes() + pattern.tobytes()
            label[piece] = seen.setdefault(content, len(seen))
        pieces.append(_Pieces(label, tile * math.prod(keys.pieces[line + 1 :])))
    return pieces, keys.n_tiles


def _turned(hood: Neighborhood, queries: Layout, keys: Layout) -> tuple[list[_Pieces], int] | None:
    """Turns of rings, where whole tiles make up a ring and its last line is walked as it comes."""
    rotation = hood.rotation
    if rotation is None:
        return None
    for layout, ring in ((queries, rotation.query_ring), (keys, rotation.key_ring)):
        natural = np.array_equal(layout.lines[-1], np.arange(layout.shape[-1]))
        if not natural or layout.shape[-1] % ring or ring % layout.widths[-1]:
            return None
    query_width, key_width = queries.widths[-1], keys.widths[-1]
    per_ring = rotation.query_ring // query_width

    def key_steps(n_pieces: int) -> int | None:
        """Tiles that keys move when queries move by ``n_pieces``, if both are whole."""
        turns, rest = divmod(n_pieces * query_width, rotation.query_step)
        tiles, key_rest = divmod(turns * rotation.key_step, key_width)
        return None if rest or key_rest else tiles

    period = next((n for n in range(1, per_ring) if key_steps(n) is not None), None)
    if period is None:
        return None
    last = np.arange(queries.pieces[-1])
    ring_number, place = np.divmod(last, per_ring)
    turned = _Pieces(ring_number * period + place % period, place // period * key_steps(period))
    fixed = [_Pieces(np.arange(n), np.zeros(n, dtype=np.int64)) for n in queries.pieces[:-1]]
    return [*fixed, turned], rotation.key_ring // key_width
