"""What bounds the cells of a grid: axes of parallels and meridians, or polygons between arcs of circles."""

from __future__ import annotations

import dataclasses
from functools import singledispatch

import numpy as np
from numpy.typing import NDArray

from geoattn.grids import quadrature
from geoattn.grids.base import SphericalGrid
from geoattn.grids.coarsening import CoarseLatLon
from geoattn.grids.coverage import hole
from geoattn.grids.icosahedral import Icosahedral
from geoattn.grids.latlon import LatLon, LatLonGrid
from geoattn.grids.points import Points
from geoattn.grids.polygons import signed_areas
from geoattn.grids.reduced import ReducedGaussian
from geoattn.grids.regional_latlon import RegionalLatLon
from geoattn.grids.sphere import Floats, Ints, unit_vectors
from geoattn.grids.voronoi import voronoi_corners

#: neighboring corners nearer to each other than this share of a cell are one
_SAME = 1e-10
#: cells between parallels and meridians are cut into pieces of at most so many degrees
_WIDEST = 60.0


class NoCells(ValueError):
    """A grid whose points stand for areas, but for no places where these lie."""


@dataclasses.dataclass(frozen=True)
class Axes:
    """Cells between parallels ``lat_edges [nlat + 1]`` and meridians ``lon_edges [nlon + 1]``, in degrees.

    In either direction; the meridians reach at most once around.
    """

    lat_edges: Floats
    lon_edges: Floats


@dataclasses.dataclass(frozen=True)
class Outlines:
    """Cells as convex pieces, each of whose sides is an arc of a circle {x : n·x = c}.

    Piece p has the arcs ``first[p] … first[p + 1]``: they begin at ``points [m, 3]`` and run anticlockwise
    about the axes n of ``circles [m, 4]``, (n, c). It is where n·x ≥ c for all of its arcs, and for the
    ``guards [q, 4]`` that ``guarded [p + 1]`` counts likewise: circles around pieces that no others
    confine. It belongs to ``cells [p]``, and counts ``signs [p]``: pieces of cells that are not convex are
    added and taken away.
    """

    first: Ints
    points: Floats
    circles: Floats
    cells: Ints
    signs: Floats
    guarded: Ints | None = None
    guards: Floats | None = None

    @property
    def arcs(self) -> Floats:
        """Where arcs begin, and their circles, ``[m, 7]``."""
        return np.concatenate((self.points, self.circles), axis=1)

    def take(self, which: NDArray[np.bool_]) -> Outlines:
        """Some of the pieces."""
        first, (points, circles) = _taken(self.first, which, self.points, self.circles)
        guarded, guards = None, None
        if self.guarded is not None and self.guards is not None:
            guarded, (guards,) = _taken(self.guarded, which, self.guards)
        return Outlines(first, points, circles, self.cells[which], self.signs[which], guarded, guards)

    def half_spaces(self) -> tuple[Ints, Floats]:
        """Circles whose insides each piece is common to, its guards and its own, and where they start."""
        if self.guarded is None or self.guards is None:
            return self.first, self.circles
        return interleave((self.guarded, self.guards), (self.first, self.circles))


def _taken(
    first: Ints, which: NDArray[np.bool_], *values: NDArray[np.float64]
) -> tuple[Ints, list[NDArray[np.float64]]]:
    counts = np.diff(first)
    kept = np.repeat(which, counts)
    return np.append(0, np.cumsum(counts[which])), [each[kept] for each in values]


def interleave(*parts: tuple[Ints, Floats]) -> tuple[Ints, Floats]:
    """Runs ``values[starts[p]:starts[p + 1]]`` of each of the parts, those of each p one after the other."""
    first = np.sum([starts for starts, _ in parts], axis=0)
    found = np.empty((int(first[-1]), *parts[0][1].shape[1:]))
    before = first[:-1].copy()
    for starts, values in parts:
        counts = np.diff(starts)
        found[np.repeat(before - starts[:-1], counts) + np.arange(len(values))] = values
        before += counts
    return first, found


@singledispatch
def cells_of(grid: SphericalGrid) -> Axes | Outlines:
    """What bounds the cells of a grid; ``@cells_of.register`` says it of a class.

    Raises
    ------
    NoCells
        If the grid's points stand for areas only.
    """
    corners = getattr(grid, "corners", None)
    if corners is None:
        raise NoCells(
            f"the {grid!r} has no cells: its class gives no corners [*shape, k, 3]. Give its points cells, "
            "ga.grids.points(grid.lat.ravel(), grid.lon.ravel()), or take method='average'"
        )
    return of_corners(np.asarray(corners).reshape(grid.size, -1, 3))


@cells_of.register
def _(grid: LatLonGrid) -> Axes:
    return Axes(quadrature.midpoint_edges(grid.lat_axis), _meridians(grid))


@cells_of.register
def _(grid: LatLon) -> Axes:
    if not len(grid.areas):
        return Axes(quadrature.midpoint_edges(grid.lat_axis), _meridians(grid))
    # the zones that have these areas, from pole to pole
    reached = np.append(0.0, np.cumsum(grid.lat_weights)) / (2.0 * np.pi)
    to_north, to_south = reached, reached[-1] - reached
    colatitude = 2.0 * np.degrees(np.arcsin(np.sqrt(np.minimum(to_north, to_south).clip(0.0) / 2.0)))
    edges = np.where(to_north < to_south, 90.0 - colatitude, colatitude - 90.0)
    edges *= 1.0 if len(edges) < 3 or grid.lat_axis[0] > grid.lat_axis[-1] else -1.0
    outside = (edges[:-1] - grid.lat_axis) * (edges[1:] - grid.lat_axis) > 1e-9
    if outside.any():
        i = int(np.flatnonzero(outside)[0])
        raise NoCells(
            f"the areas of the {grid!r} are of no zones around its rows: row {i} at {grid.lat_axis[i]:g}° "
            f"would reach from {edges[i]:g}° to {edges[i + 1]:g}°. Take the zones between its rows, "
            "ga.grids.latlon(grid.lat_axis, grid.lon_axis), or method='average'"
        )
    return Axes(edges, _meridians(grid))


@cells_of.register
def _(grid: CoarseLatLon) -> Axes:
    fine = cells_of(grid.fine)
    assert isinstance(fine, Axes)
    return Axes(fine.lat_edges[:: grid.rows], fine.lon_edges[:: grid.fine.nlon // grid.nlon])


@cells_of.register
def _(grid: RegionalLatLon) -> Axes:
    return Axes(grid.lat_edges, grid.lon_edges)


def _meridians(grid: LatLonGrid) -> Floats:
    return np.asarray(grid.lon_start + (np.arange(grid.nlon + 1) - 0.5) * (360.0 / grid.nlon))


@cells_of.register
def _(grid: ReducedGaussian) -> Outlines:
    return between(*bands(grid))


def bands(grid: ReducedGaussian) -> tuple[Floats, Floats, Floats, Floats]:
    """South, north, west and east of each cell, degrees."""
    edges = quadrature.midpoint_edges(grid._rows[0])
    per_row = grid.points_per_row
    row = np.repeat(np.arange(len(per_row)), per_row)
    half = 180.0 / per_row[row]
    return edges[row + 1], edges[row], grid.lon - half, grid.lon + half


@cells_of.register(Icosahedral)
@cells_of.register(Points)
def _(grid: Icosahedral | Points) -> Outlines:
    if isinstance(grid, Points) and len(grid.areas):
        where = "ga.grids.regional(lat, lon, corners=(corner_lat, corner_lon))"
        if hole(grid.xyz) is None:
            where += ", or take their Voronoi cells, ga.grids.points(grid.lat, grid.lon)"
        raise NoCells(
            f"the {grid!r} has no cells: its points stand for areas that lie nowhere. Say where, {where}; or "
            "take method='average'"
        )
    return of_corners(voronoi_corners(grid.xyz))


def pieces(cells: Axes | Outlines, which: Ints | None = None) -> Outlines:
    """Polygons of cells that axes bound: of all, or of those whose flat numbers are given, ascending."""
    if isinstance(cells, Outlines):
        return cells
    lat, lon = cells.lat_edges, cells.lon_edges
    which = np.arange((len(lat) - 1) * (len(lon) - 1)) if which is None else which
    row, column = np.divmod(which, len(lon) - 1)
    ends = (lat[row], lat[row + 1]), (lon[column], lon[column + 1])
    (south, north), (west, east) = ((np.minimum(*pair), np.maximum(*pair)) for pair in ends)
    found = between(south, north, west, east)
    return dataclasses.replace(found, cells=which[found.cells])


def between(south: Floats, north: Floats, west: Floats, east: Floats) -> Outlines:
    """Cells between parallels and meridians, degrees, ``[n]`` each; one at a pole has three sides."""
    cells = np.arange(len(south))
    whole, south, north = _parted(south, north)
    cells, west, east = cells[whole], west[whole], east[whole]
    whole, west, east = _parted(west, east)
    cells, south, north = cells[whole], south[whole], north[whole]
    n = len(south)
    points = np.stack(
        [unit_vectors(*at) for at in ((south, west), (south, east), (north, east), (north, west))], 1
    )
    circles = np.zeros((n, 4, 4))
    circles[:, 0, 2], circles[:, 2, 2] = 1.0, -1.0
    circles[:, 0, 3], circles[:, 2, 3] = points[:, 0, 2], -points[:, 2, 2]
    for side, lon, sign in ((1, east, 1.0), (3, west, -1.0)):
        turn = np.radians(lon)
        circles[:, side, 0], circles[:, side, 1] = sign * np.sin(turn), -sign * np.cos(turn)
    there = np.ones((n, 4), bool)
    there[:, 0], there[:, 2] = south > -90.0 + 1e-9, north < 90.0 - 1e-9
    points[~there[:, 0], 1] = (0.0, 0.0, -1.0)
    points[~there[:, 2], 3] = (0.0, 0.0, 1.0)
    first = np.append(0, np.cumsum(there.sum(1)))
    return Outlines(first, points[there], circles[there], cells, np.ones(n))


def _parted(low: Floats, high: Floats) -> tuple[Ints, Floats, Floats]:
    """Intervals cut into equal parts of at most :data:`_WIDEST`: of which each is, and its ends."""
    parts = np.maximum(np.ceil((high - low) / _WIDEST - 1e-9), 1.0).astype(np.int64)
    whole = np.repeat(np.arange(len(parts)), parts)
    place = np.arange(len(whole)) - np.repeat(np.cumsum(parts) - parts, parts)
    low, high, count = low[whole], high[whole], parts[whole]
    step = (high - low) / count
    return whole, low + step * place, np.where(place + 1 == count, high, low + step * (place + 1))


def of_corners(corners: Floats) -> Outlines:
    """Cells whose sides are great circles, from corners ``[n, k, 3]`` either way around; some may repeat."""
    k = corners.shape[1]
    size = np.linalg.norm(corners - corners[:, :1], axis=-1).max(1)
    before = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    there = before > _SAME * size[:, None]
    areas = signed_areas(corners)
    backward = areas < 0
    corners, there = corners.copy(), there.copy()
    corners[backward], there[backward] = corners[backward, ::-1], there[backward, ::-1]
    # corners that stay come first, the last of them is repeated behind
    order = np.argsort(~there, axis=1, kind="stable")
    counts = there.sum(1)
    order = np.take_along_axis(order, np.minimum(np.arange(k), np.maximum(counts - 1, 0)[:, None]), 1)
    corners = np.take_along_axis(corners, order[..., None], 1)
    after = np.take_along_axis(corners, ((np.arange(k) + 1) % counts.clip(1)[:, None])[..., None], 1)
    circles = great_circles(corners, after)
    inward = np.einsum("nic,njc->nij", circles, corners)
    real = np.arange(k) < counts[:, None]
    convex = ((inward > -1e-11) | ~real[:, :, None]).all((1, 2))
    kept = real & (convex & (counts >= 3))[:, None]
    cells = np.flatnonzero(kept.any(1))
    found = Outlines(
        np.append(0, np.cumsum(kept.sum(1)[cells])),
        corners[kept],
        np.concatenate((circles[kept], np.zeros((int(kept.sum()), 1))), axis=1),
        cells,
        np.ones(len(cells)),
    )
    bent = np.flatnonzero(~convex & (counts >= 3))
    return join(found, _fans(corners[bent], bent)) if len(bent) else found


def _fans(corners: Floats, cells: Ints) -> Outlines:
    """Cells that are not convex as the triangles from the first corner, added and taken away."""
    n, k = corners.shape[:2]
    triangles = np.stack(
        (np.repeat(corners[:, :1], k - 2, axis=1), corners[:, 1:-1], corners[:, 2:]), axis=2
    ).reshape(-1, 3, 3)
    owners = np.repeat(cells, k - 2)
    areas = signed_areas(triangles)
    solid = np.abs(areas) > 1e-13 * np.repeat(np.abs(areas).reshape(n, -1).sum(1), k - 2)
    triangles, owners, areas = triangles[solid], owners[solid], areas[solid]
    triangles[areas < 0] = triangles[areas < 0, ::-1]
    circles = great_circles(triangles, np.roll(triangles, -1, axis=1))
    circles = np.concatenate((circles, np.zeros((*circles.shape[:2], 1))), axis=-1)
    return Outlines(
        3 * np.arange(len(owners) + 1),
        triangles.reshape(-1, 3),
        circles.reshape(-1, 4),
        owners,
        np.sign(areas),
    )


def join(*parts: Outlines) -> Outlines:
    """The pieces of all."""

    def ends(counts: list[Ints]) -> Ints:
        return np.append(0, np.cumsum(np.concatenate([np.diff(each) for each in counts])))

    values = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("points", "circles", "cells", "signs")
    )
    guards = [np.empty((0, 4)) if part.guards is None else part.guards for part in parts]
    guarded = [np.zeros_like(part.first) if part.guarded is None else part.guarded for part in parts]
    shields = (ends(guarded), np.concatenate(guards)) if any(map(len, guards)) else (None, None)
    return Outlines(ends([part.first for part in parts]), *values, *shields)


def great_circles(start: Floats, end: Floats) -> NDArray[np.float64]:
    """Axes of the great circles from ``start`` to ``end``, ``[…, 3]`` each; zeros where they are one."""
    axes = np.cross(start, end - start)  # of differences: short sides keep their digits
    length = np.linalg.norm(axes, axis=-1, keepdims=True)
    return np.asarray(axes / np.where(length > 0, length, 1.0))
