"""Some points of a grid, with the weights that they have there."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geoattn._value import traceless
from geoattn.grids.base import Grid, read_only
from geoattn.grids.sphere import Floats, Ints

#: points of the whole grid that share a page of their places
_PAGE = 64


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Selection(Grid, kind="selection"):
    """The points ``tokens`` of ``grid`` in the order given: what one of several processes holds of it.

    Weights are those of the whole grid, so that an integral over the grid is the sum of those over its
    parts. There may be no point at all.
    """

    grid: Grid
    #: int32 [n], flat indices of distinct points
    tokens: NDArray[np.int32]

    def _check(self) -> None:
        tokens = self.tokens
        if tokens.ndim != 1 or tokens.dtype != np.int32:
            raise ValueError(f"tokens must be int32 [n], got {tokens.dtype} of shape {tokens.shape}")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.grid.size:
            raise ValueError(
                f"tokens must lie in [0, {self.grid.size}) on {self.grid!r}, got {tokens.min()} … "
                f"{tokens.max()}"
            )
        if len(np.unique(tokens)) < len(tokens):
            raise ValueError("a point is selected twice")

    def _shape(self) -> tuple[int, ...]:
        return (len(self.tokens),)

    def _of(self, name: str) -> Floats:
        """An attribute of the whole grid at the tokens; the whole is let go again."""
        if isinstance(self.grid, Selection):
            whole = getattr(self.grid, name)
        else:
            with traceless(self.grid):
                whole = getattr(self.grid, name)
        rank = len(self.grid.shape)
        return read_only(whole.reshape(-1, *whole.shape[rank:])[self.tokens])

    @cached_property
    def weights(self) -> Floats:
        return self._of("weights")

    @property
    def bare(self) -> NDArray[np.bool_] | None:
        return None if self.grid.bare is None else self.grid.bare.reshape(-1)[self.tokens]

    @property
    def positions(self) -> Floats:
        # of a selection among selected points: it is used once, for an order, and not worth the memory
        return self._of("positions") if isinstance(self.grid, Selection) else self._positions

    @cached_property
    def _positions(self) -> Floats:
        return self._of("positions")

    def lattice(self) -> Ints:
        with traceless(self.grid):
            return self.grid.lattice()[self.tokens]

    @cached_property
    def lat(self) -> Floats:
        """Latitude of each point, degrees north, ``[n]``, where the grid is, or has, a sphere."""
        return self._of("lat")

    @cached_property
    def lon(self) -> Floats:
        """Longitude of each point, degrees east, ``[n]``, likewise."""
        return self._of("lon")

    @cached_property
    def xyz(self) -> Floats:
        """Unit vectors, ``[n, 3]``, likewise."""
        return self._of("xyz")

    def places(self, tokens: NDArray[np.int32]) -> NDArray[np.int32]:
        """Where points of the whole grid stand here, −1 where they are not selected."""
        pages, places = self._pages
        found: NDArray[np.int32] = places[pages[tokens // _PAGE], tokens % _PAGE]
        return found

    @cached_property
    def _pages(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The inverse of ``tokens``: the page of each run of points, and the places on the pages.

        All runs without a selected point share page 0, so that memory goes with the points that are selected.
        """
        used = np.unique(self.tokens // _PAGE)
        pages = np.zeros(-(-self.grid.size // _PAGE), np.int32)
        pages[used] = np.arange(1, len(used) + 1)
        places = np.full((len(used) + 1, _PAGE), -1, np.int32)
        places[pages[self.tokens // _PAGE], self.tokens % _PAGE] = np.arange(len(self.tokens))
        return pages, places

    def __repr__(self) -> str:
        return f"{self.size} points of {self.grid!r}"
