"""Products of grids: time × sphere, levels × sphere, and so on."""

from __future__ import annotations

import dataclasses
from functools import cached_property, reduce
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import Grid, SphericalGrid, read_only
from geoattn.grids.sphere import Floats, Ints

T = TypeVar("T", bound=np.generic)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ProductGrid(Grid, kind="product_grid"):
    """All tuples of points of its factors: shapes follow one another, weights multiply.

    Examples
    --------
    >>> ga.grids.product(ga.grids.cartesian(3), ga.grids.healpix(2)).shape
    (3, 48)
    """

    factors: tuple[Grid, ...]

    def _check(self) -> None:
        for factor in self.factors:
            if not isinstance(factor, Grid):
                raise TypeError(f"a product is of grids, got {factor!r}")
        if len(self.factors) < 2:
            raise ValueError(f"a product needs at least two grids, got {list(self.factors)}")

    def _shape(self) -> tuple[int, ...]:
        return tuple(n for factor in self.factors for n in factor.shape)

    @property
    def axes_periodic(self) -> tuple[bool, ...] | None:
        axes: list[bool] = []
        for factor in self.factors:
            if factor.axes_periodic is None:
                return None
            axes += factor.axes_periodic
        return tuple(axes)

    @cached_property
    def weights(self) -> Floats:
        return read_only(reduce(np.multiply.outer, [factor.weights for factor in self.factors]))

    @cached_property
    def cell_areas(self) -> Floats:
        return read_only(reduce(np.multiply.outer, [factor.cell_areas for factor in self.factors]))

    @cached_property
    def positions(self) -> Floats:
        spread = [self._spread(i, factor.positions) for i, factor in enumerate(self.factors)]
        return read_only(np.concatenate(spread, axis=-1))

    def lattice(self) -> Ints:
        patch = np.zeros(self.size, np.int64)
        places = []
        for i, factor in enumerate(self.factors):
            own = factor.lattice().reshape(*factor.shape, -1)
            own = self._spread(i, own).reshape(self.size, -1)
            patch = patch * (own[:, 0].max() + 1) + own[:, 0]
            places.append(own[:, 1:])
        return np.concatenate((patch[:, None], *places), axis=-1)

    @cached_property
    def lat(self) -> Floats:
        """Latitude of each point, degrees north, ``[*shape]``, where one factor is a sphere."""
        i, sphere = self._sphere("lat")
        return self._spread(i, sphere.lat[..., None])[..., 0]

    @cached_property
    def lon(self) -> Floats:
        """Longitude of each point, degrees east, ``[*shape]``, where one factor is a sphere."""
        i, sphere = self._sphere("lon")
        return self._spread(i, sphere.lon[..., None])[..., 0]

    @cached_property
    def xyz(self) -> Floats:
        """Unit vectors, ``[*shape, 3]``, where one factor is a sphere."""
        i, sphere = self._sphere("xyz")
        return self._spread(i, sphere.xyz)

    def _sphere(self, attribute: str) -> tuple[int, SphericalGrid]:
        spheres = [(i, f) for i, f in enumerate(self.factors) if isinstance(f, SphericalGrid)]
        if len(spheres) != 1:
            raise AttributeError(
                f"{attribute} needs exactly one spherical factor; {self!r} has {len(spheres)}"
            )
        return spheres[0]

    def _spread(self, i: int, values: NDArray[T]) -> NDArray[T]:
        """``values [*factors[i].shape, channels]`` broadcast to ``[*shape, channels]``."""
        before = sum(len(f.shape) for f in self.factors[:i])
        after = sum(len(f.shape) for f in self.factors[i + 1 :])
        shape = (1,) * before + values.shape[:-1] + (1,) * after + values.shape[-1:]
        return np.broadcast_to(values.reshape(shape), (*self.shape, values.shape[-1]))

    def __repr__(self) -> str:
        return "product grid (" + ") × (".join(map(repr, self.factors)) + ")"


def product(*grids: Grid) -> ProductGrid:
    """The product of two or more grids; products among them are taken apart.

    ``product(time, sphere)`` has the shape ``(*time.shape, *sphere.shape)`` and the outer product
    of their weights. With exactly one spherical factor it has ``lat``, ``lon`` and ``xyz``.

    Examples
    --------
    >>> ga.grids.product(ga.grids.cartesian(6), ga.grids.healpix(4))
    product grid (cartesian grid 6, spacing (1.0,)) × (HEALPix grid nside 4, 192 pixels in neste...
    """
    factors: list[Grid] = []
    for grid in grids:
        factors += grid.factors if isinstance(grid, ProductGrid) else (grid,)
    return ProductGrid(tuple(factors))
