"""What a plan is: an order of the tokens and, for each query tile, the key tiles it visits."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A neighborhood laid out in tiles of ``query_tile`` queries by ``key_tile`` keys.

    Tokens are reordered so that neighbors share tiles. Query tile t holds the tokens
    ``query_order[t * query_tile : (t + 1) * query_tile]`` of the query grid, −1 where it is
    padded; key tiles likewise. Tiles that see the same keys up to a shift share one list: the
    list of tile t is that of its class ``c = tile_class[t]``, entries ``indptr[c]`` to
    ``indptr[c + 1]``, and an entry e stands for the key tile

        ring_start + (key_tiles[e] - ring_start + tile_shift[t]) % ring,
        ring_start = key_tiles[e] // ring * ring.

    Without such a symmetry each tile is its own class with shift 0. Two machines read plans:

    - ``key_tile == 1`` (vector lanes of a CPU, ``query_tile == 32``): bit l of ``lanes[e]`` says
      whether query l of the tile sees key e.
    - ``key_tile == 64`` (tensor cores, ``query_tile == 64``): ``mask_ids[e]`` is −1 where every
      query sees every key of the tile, else the row in ``masks``, where bit j of
      ``masks[m, i]`` says whether query i sees key j, and bit ``8 * (i // 16) + j // 8`` of
      ``groups[m]`` whether that 16×8 group holds any visible pair. Equal masks are stored once.

    Padded queries and keys are never visible. The backward pass of a row-stationary kernel runs
    the plan of the transposed neighborhood.
    """

    query_tile: int
    key_tile: int
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
    #: uint32 [n_entries] for key_tile == 1, else None
    lanes: NDArray[np.uint32] | None = None
    #: int32 [n_entries] for key_tile == 64, else None
    mask_ids: NDArray[np.int32] | None = None
    #: uint64 [n_masks, query_tile]
    masks: NDArray[np.uint64] | None = None
    #: uint32 [n_masks]
    groups: NDArray[np.uint32] | None = None

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
