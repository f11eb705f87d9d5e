"""Coarser grids whose points stand for equal patches of a finer one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property, singledispatch
from typing import NamedTuple

import numpy as np

from geoattn.grids.base import Grid, read_only, require_grid
from geoattn.grids.cartesian import Cartesian
from geoattn.grids.checks import integer
from geoattn.grids.cube import CubedSphere
from geoattn.grids.curvilinear import Curvilinear
from geoattn.grids.healpix import HEALPix
from geoattn.grids.latlon import LatLonGrid
from geoattn.grids.product import ProductGrid
from geoattn.grids.regional_latlon import RegionalLatLon
from geoattn.grids.sphere import Floats, Ints, lat_lon


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CoarseLatLon(LatLonGrid, kind="coarse_latlon"):
    """Patches of ``rows`` rows and of equally many columns each of a finer lat-lon grid.

    A patch lies at its centre of area on the z axis and at its middle longitude, and weighs as
    much as its members together.

    Examples
    --------
    >>> ga.grids.patches(ga.grids.gaussian(8, 16), 2).grid
    lat-lon grid 4×8 of patches of Gaussian grid 8×16
    """

    fine: LatLonGrid
    rows: int

    def _shape(self) -> tuple[int, ...]:
        return (self.fine.shape[0] // self.rows, self.nlon)

    @cached_property
    def lat_weights(self) -> Floats:
        return read_only(self.fine.lat_weights.reshape(-1, self.rows).sum(-1))

    @cached_property
    def cell_areas(self) -> Floats:
        rows = self.fine.cell_areas.sum(-1).reshape(-1, self.rows).sum(-1) / self.nlon
        return np.broadcast_to(read_only(rows)[:, None], self.shape)

    @cached_property
    def lat_axis(self) -> Floats:
        weights = self.fine.lat_weights.reshape(-1, self.rows)
        z = np.sin(np.radians(self.fine.lat_axis)).reshape(-1, self.rows)
        return read_only(np.degrees(np.arcsin((weights * z).sum(-1) / weights.sum(-1))))

    def __repr__(self) -> str:
        return f"lat-lon grid {self.shape[0]}×{self.shape[1]} of patches of {self.fine!r}"


class Patches(NamedTuple):
    """Equal blocks of a grid: the ``grid`` that they make, and the tokens of each, ``[patches, points]``.

    Examples
    --------
    >>> ga.grids.patches(ga.grids.cartesian((4, 6)), 2).members[0]
    array([0, 1, 6, 7])
    """

    grid: Grid
    members: Ints


def patches(grid: Grid, patch: int | Sequence[int]) -> Patches:
    """Cut a grid into equal rectangular patches.

    Parameters
    ----------
    grid
        A cartesian, lat-lon, HEALPix (either order) or cubed-sphere grid, a region of rows and columns, or
        a product of such.
    patch
        Points along each side of a patch; one number, or one for each axis (for each of the two
        axes of a face on HEALPix and cubed-sphere grids).

    Returns
    -------
    The coarser grid, and the tokens of each patch in the order of their places in it. Cells of
    planes grow by ``patch``, HEALPix goes from ``nside`` to ``nside / patch``, cubed spheres from
    ``n`` to ``n / patch``, and lat-lon grids and regions to one of their kind whose weights are the sums
    over the patches.

    Raises
    ------
    ValueError
        If the patches do not divide the grid, or the grid has no such patches.

    Examples
    --------
    >>> ga.grids.patches(ga.grids.healpix(4), 2).grid
    HEALPix grid nside 2, 48 pixels in nested order
    """
    require_grid("grid", grid)
    places = grid.lattice()
    axes = places.shape[1] - 1
    given = (patch,) * axes if np.ndim(patch) == 0 else tuple(patch)  # type: ignore[arg-type]
    sides = tuple(integer("patch", side) for side in given)
    if len(sides) != axes or min(sides) < 1:
        raise ValueError(f"patch must be one positive number or {axes} of them on {grid!r}, got {patch}")
    coarse = grid if set(sides) == {1} else coarsen(grid, sides)
    block = np.concatenate((places[:, :1], places[:, 1:] // sides), axis=1)
    within = places[:, 1:] % sides
    by_block = np.lexsort(np.concatenate((block, within), axis=1).T[::-1])
    members = np.empty((coarse.size, int(np.prod(sides))), dtype=np.int64)
    members[np.lexsort(coarse.lattice().T[::-1])] = by_block.reshape(members.shape)
    return Patches(coarse, members)


@singledispatch
def coarsen(grid: Grid, sides: tuple[int, ...]) -> Grid:
    """The grid of the patches with ``sides`` points along each axis."""
    raise ValueError(
        f"{grid!r} has no rectangular patches; lead to a coarser grid with ga.nn.Resample instead"
    )


@coarsen.register
def _(grid: Cartesian, sides: tuple[int, ...]) -> Grid:
    lengths = tuple(_divide(grid, n, side) for n, side in zip(grid.shape, sides, strict=True))
    spacing = tuple(s * side for s, side in zip(grid.spacing, sides, strict=True))
    return Cartesian(lengths, spacing, grid.periodic)


@coarsen.register
def _(grid: LatLonGrid, sides: tuple[int, ...]) -> Grid:
    _divide(grid, grid.shape[0], sides[0])
    nlon = _divide(grid, grid.nlon, sides[1])
    middle = (grid.lon_start + 180.0 * (sides[1] - 1) / grid.nlon) % 360.0
    return CoarseLatLon(nlon=nlon, lon_start=middle, fine=grid, rows=sides[0])


@coarsen.register
def _(grid: RegionalLatLon, sides: tuple[int, ...]) -> Grid:
    rows, columns = (_divide(grid, n, side) for n, side in zip(grid.shape, sides, strict=True))
    areas = grid.weights.reshape(rows, sides[0], columns, sides[1])
    z = np.sin(np.radians(grid.lat_axis)).reshape(rows, sides[0])
    share = areas.sum((2, 3)) / areas.sum((1, 2, 3))[:, None]  # centres of area, as on the globe
    return RegionalLatLon(
        np.degrees(np.arcsin((share * z).sum(1))),
        grid.lon_path.reshape(columns, sides[1]).mean(1),
        grid.lat_edges[:: sides[0]],
        grid.lon_edges[:: sides[1]],
        areas.sum((1, 3)) if grid.areas.size else grid.areas,
    )


@coarsen.register
def _(grid: Curvilinear, sides: tuple[int, ...]) -> Grid:
    rows, columns = (_divide(grid, n, side) for n, side in zip(grid.shape, sides, strict=True))
    areas = grid.weights.reshape(rows, sides[0], columns, sides[1], 1)
    centres = (areas * grid.xyz.reshape(rows, sides[0], columns, sides[1], 3)).sum((1, 3))
    centres /= np.linalg.norm(centres, axis=-1, keepdims=True)
    first, last = (slice(0, None, side) for side in sides), (slice(side - 1, None, side) for side in sides)
    (top, left), (bottom, right) = first, last
    outermost = []
    for place in ((top, left), (top, right), (bottom, right), (bottom, left)):
        corners = grid.corners[place]  # the one of this cell that is farthest from the patch's centre
        far = (corners * centres[..., None, :]).sum(-1).argmin(-1)
        outermost.append(np.take_along_axis(corners, far[..., None, None], axis=2)[..., 0, :])
    corner_lat, corner_lon = lat_lon(np.stack(outermost, axis=2))
    return Curvilinear(*lat_lon(centres), corner_lat, corner_lon, areas.sum((1, 3))[..., 0])


@coarsen.register
def _(grid: HEALPix, sides: tuple[int, ...]) -> Grid:
    return HEALPix(_divide(grid, grid.nside, _square(grid, sides)), grid.order)


@coarsen.register
def _(grid: CubedSphere, sides: tuple[int, ...]) -> Grid:
    return dataclasses.replace(grid, n=_divide(grid, grid.n, _square(grid, sides)))


@coarsen.register
def _(grid: ProductGrid, sides: tuple[int, ...]) -> Grid:
    factors, start = [], 0
    for factor in grid.factors:
        end = start + factor.lattice().shape[1] - 1
        factors.append(patches(factor, sides[start:end]).grid)
        start = end
    return ProductGrid(tuple(factors))


def _divide(grid: Grid, length: int, side: int) -> int:
    if length % side:
        fit = ", ".join(str(n) for n in range(1, min(length, 64) + 1) if length % n == 0)
        raise ValueError(
            f"patches of {side} do not divide the {length} points along a side of {grid!r}; {fit} do"
        )
    return length // side


def _square(grid: Grid, sides: tuple[int, ...]) -> int:
    if sides[0] != sides[1]:
        raise ValueError(f"patches of {grid!r} must be square, got {sides}")
    return sides[0]
