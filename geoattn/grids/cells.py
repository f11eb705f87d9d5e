"""Points with a cell around each whose sides are great circles; lists of them."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import PointSet, SphericalGrid, read_only
from geoattn.grids.points import check_links
from geoattn.grids.polygons import inside, overlap, signed_areas
from geoattn.grids.sphere import Floats, Ints, unit_vectors


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class CellGrid(SphericalGrid):
    """Points, corners of their cells, in degrees, and areas where these are not the cells' own."""

    latitudes: Floats
    longitudes: Floats
    #: of each cell ``[*shape, k]``, or as the class says; cells of fewer corners repeat some
    corner_latitudes: Floats
    corner_longitudes: Floats
    #: ``[*shape]``, or empty where they are those of the cells
    areas: Floats

    def _shape(self) -> tuple[int, ...]:
        return self.latitudes.shape

    @property
    def lat(self) -> Floats:
        return self.latitudes

    @property
    def lon(self) -> Floats:
        return self.longitudes

    @property
    @abstractmethod
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[*shape, k, 3]``."""

    @property
    def repeats(self) -> NDArray[np.bool_] | None:
        """Points ``[*shape]`` that are there once more and count nothing, or None where none are."""
        return None

    @property
    def bare(self) -> NDArray[np.bool_] | None:
        return self.repeats

    @cached_property
    def weights(self) -> Floats:
        """Areas of the cells; 0 at a point without one, which hides it as a key."""
        areas = self.areas if self.areas.size else cell_areas(self.xyz, self.corners, self.bare)
        return read_only(areas if self.bare is None else np.where(self.bare, 0.0, areas))

    def _describe(self) -> str:
        """Where the cells lie, and how much of the globe they are."""
        again = 0 if self.repeats is None else int(self.repeats.sum())
        none = 0 if self.bare is None else int(self.bare.sum()) - again
        told = f", {again} points that repeat others count once" if again else ""
        return describe(self) + told + (f", {none} points have no cells" if none else "")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cells(CellGrid, PointSet, kind="cells"):
    """A list of points, each with the corners of its cell, ``[n, k]``: a mesh, or pieces of a region.

    Examples
    --------
    >>> corners = [[-5, -5, 5, 5]] * 2, [[-5, 5, 5, -5], [5, 15, 15, 5]]
    >>> cells = ga.grids.mesh([0, 0], [0, 10], corners=corners)
    >>> type(cells).__name__, cells.shape
    ('Cells', (2,))
    """

    #: ``[m, 2]``, which cells are neighbors; empty where those are that share a side
    links: Ints = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def _check(self) -> None:
        check_links(self.links, len(self.latitudes))

    @cached_property
    def corners(self) -> Floats:
        """Unit vectors to the corners of each cell, ``[n, k, 3]``."""
        return read_only(unit_vectors(self.corner_latitudes, self.corner_longitudes))

    @cached_property
    def edges(self) -> Ints:
        """Pairs of cells that are neighbors: the mesh's own, else those that share a side."""
        return self.links if len(self.links) else read_only(sharing_a_side(self.corners))

    def __repr__(self) -> str:
        return f"{'mesh' if self.is_global else 'region'} of {self.size} cells, {self._describe()}"


def cell_areas(points: Floats, corners: Floats, bare: NDArray[np.bool_] | None = None) -> Floats:
    """Areas of cells ``corners [*shape, k, 3]`` around ``points [*shape, 3]``, steradians; 0 at ``bare``.

    Raises
    ------
    ValueError
        If cells are folded, do not lie around their points, or overlap.
    """
    signed = signed_areas(corners)
    counted = np.ones(signed.shape, bool) if bare is None else ~bare
    folded = counted & ~(signed * np.sign(np.median(signed[counted])) > 0)
    if folded.any():
        first = tuple(map(int, np.argwhere(folded)[0]))
        raise ValueError(
            f"{folded.mean():.2%} of the cells, the first at index {first}, have no area or run the other "
            "way around: their corners do not close, or neighboring points come in no order. Give corners in "
            "one direction around every cell, ga.grids.regional(lat, lon, corners=(corner_lat, corner_lon))"
        )
    outside = counted & ~inside(points, corners)
    if outside.any():
        first = tuple(map(int, np.argwhere(outside)[0]))
        raise ValueError(
            f"the corners of {outside.mean():.2%} of the cells do not close around their points, first at "
            f"index {first}: they belong to other points, or are in another order"
        )
    areas = np.where(counted, np.abs(signed), 0.0)
    share = overlap(points[counted], corners[counted], areas[counted])
    if share > 0.001:
        raise ValueError(
            f"cells overlap: {share:.1%} of the area lies in several cells. Leave out what is there twice, "
            "keep = ga.grids.distinct(lat, lon), or give the areas that points stand for, areas=…"
        )
    return areas


def describe(grid: SphericalGrid) -> str:
    """Where a region lies, and how large it is."""
    return f"{span(grid.lat, grid.lon)}, {grid.weights.sum() / (4.0 * np.pi):.2%} of the globe"


def span(lat: Floats, lon: Floats) -> str:
    """Latitudes and longitudes that points reach over, the latter from behind their widest gap."""
    east = np.unique(lon)
    gaps = np.diff(np.append(east, east[0] + 360.0))
    start, end = east[(gaps.argmax() + 1) % east.size], east[gaps.argmax()]
    turn = f"lon {start:g}° to {end:g}°" if gaps.max() > 1.5 * 360.0 / east.size else "all longitudes"
    return f"lat {lat.min():g}° to {lat.max():g}°, {turn}"


def sharing_a_side(corners: Floats) -> Ints:
    """Pairs ``[m, 2]`` of cells ``corners [n, k, 3]`` that have a side in common, each once."""
    n, k = corners.shape[:2]
    size = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(initial=0.0)
    tick = max(1e-9, 1e-6 * size)  # corners of neighbors are written each for itself, and rounded
    nodes = _same_places(corners.reshape(-1, 3), tick).reshape(n, k)
    return of_nodes(nodes)


def of_nodes(nodes: Ints) -> Ints:
    """Pairs ``[m, 2]`` of cells that have a side in common, from the numbers of their corners ``[n, k]``."""
    n, k = nodes.shape
    sides = np.sort(np.stack((nodes, np.roll(nodes, -1, axis=1)), axis=-1).reshape(-1, 2), axis=1)
    cells = np.repeat(np.arange(n), k)
    real = sides[:, 0] != sides[:, 1]
    sides, cells = sides[real], cells[real]
    order = np.lexsort((cells, sides[:, 1], sides[:, 0]))
    sides, cells = sides[order], cells[order]
    met = (sides[1:] == sides[:-1]).all(1) & (cells[1:] != cells[:-1])
    pairs = np.stack((cells[:-1][met], cells[1:][met]), axis=-1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _same_places(points: Floats, within: float) -> Ints:
    """A number for each place; the same for points that are nearer to each other than ``within``."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    exact, number = np.unique(points, axis=0, return_inverse=True)
    pairs = cKDTree(exact).query_pairs(within, output_type="ndarray")
    links = csr_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (len(exact),) * 2)
    return np.asarray(connected_components(links, directed=False)[1][number.ravel()], np.int64)
