"""Grids of a part of the sphere, from points and the cells around them."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoattn.grids.base import SphericalGrid
from geoattn.grids.cells import Cells
from geoattn.grids.checks import numbers
from geoattn.grids.curvilinear import Curvilinear
from geoattn.grids.points import Points, points
from geoattn.grids.polygons import inside, signed_areas
from geoattn.grids.regional_latlon import RegionalLatLon, edges_between
from geoattn.grids.sphere import Floats, unit_vectors, wrap_longitude

Region: TypeAlias = RegionalLatLon | Curvilinear | Cells | Points

_NONE = np.empty(0)


def regional(
    lat: ArrayLike,
    lon: ArrayLike,
    corners: tuple[ArrayLike, ArrayLike] | None = None,
    areas: ArrayLike | None = None,
) -> Region:
    """A grid that covers a part of the sphere: a model's domain, a swath, a slice of a global grid.

    Points stand for the cells around them, and the weights are the areas of these, in steradians: they sum
    to the area of the region, not to 4π. A slice of a global grid is weighed by its own cells, not by its
    parent's quadrature rule, which is right for the whole globe only.

    Parameters
    ----------
    lat, lon
        Degrees north and east, from any longitude origin:

        - two axes, ``[rows]`` and ``[columns]``, each in one direction: cells lie between parallels and
          meridians;
        - arrays ``[rows, columns]`` of a projection, a rotated pole or a swath: cells have great circles for
          sides. Arrays that only repeat two axes are those axes;
        - lists ``[n]`` of points, with ``corners`` or ``areas``.
    corners
        Latitudes and longitudes of the cells' corners. For axes ``[rows + 1]`` and ``[columns + 1]``, or the
        bounds ``[rows, 2]`` and ``[columns, 2]`` of each; for arrays ``[rows + 1, columns + 1]``, where cells
        meet, or ``[rows, columns, 4]``, around each, all at the point where that has no cell; for lists
        ``[n, k]``. Without them, cells end halfway to their neighbors; the outermost reach as far outward as
        inward, and along axes no further than a pole.
    areas
        Steradians of each point, of the grid's shape, instead of those of the cells.

    Returns
    -------
    A grid of shape ``(rows, columns)``, or ``(n,)``.

    Raises
    ------
    TypeError
        If coordinates, corners or areas are no real numbers.
    ValueError
        If shapes do not belong together, a point is not on the sphere, an axis turns, cells overlap or leave
        gaps or their corners do not close, or if areas are not positive or not those of the cells.

    Examples
    --------
    >>> ga.grids.regional(np.linspace(40, 50, 6), np.linspace(0, 15, 8)).shape
    (6, 8)
    """
    lat, lon = numbers("lat", lat), numbers("lon", lon)
    cell_corners = None if corners is None else _corners(corners)
    given = None if areas is None else numbers("areas", areas)
    _check_points(lat, lon)
    if lat.ndim == lon.ndim == 1 and not _is_list(lat, lon, cell_corners, given):
        grid: Region = _between_axes(lat, lon, cell_corners, given)
    elif lat.ndim == 2 and lat.shape == lon.shape:
        grid = _of_array(lat, lon, cell_corners, given)
    elif lat.ndim == 1 and lat.shape == lon.shape:
        grid = _of_list(lat, lon, cell_corners, given)
    else:
        raise ValueError(
            f"lat and lon must be two axes, two arrays [rows, columns] or two lists [n], got shapes "
            f"{lat.shape} and {lon.shape}; make lists of them, "
            "ga.grids.regional(lat.ravel(), lon.ravel(), areas=…)"
        )
    if given is not None:
        _check_areas(given, grid)
    grid.weights  # noqa: B018 - cells that are none are refused here, at the call
    return grid


def _is_list(lat: Floats, lon: Floats, corners: tuple[Floats, Floats] | None, areas: Floats | None) -> bool:
    """Whether two rows of numbers are a list of points rather than two axes."""
    n = len(lat)
    if len(lon) != n:
        return False
    if areas is not None:
        return areas.ndim == 1
    if corners is not None and corners[0].ndim == 2:
        return bool(corners[0].shape[1] > 2)
    return corners is None and not (_is_axis(np.diff(lat)) and _is_axis(_steps(lon)))


def _is_axis(steps: Floats) -> bool:
    return bool(len(steps)) and bool((steps * steps[0] > 0).all())


def _steps(lon: Floats) -> Floats:
    """From each longitude to the next, the shorter way."""
    return (np.diff(lon) + 180.0) % 360.0 - 180.0


def _between_axes(
    lat: Floats, lon: Floats, corners: tuple[Floats, Floats] | None, areas: Floats | None
) -> RegionalLatLon:
    path = wrap_longitude(lon[0]) + np.concatenate(([0.0], np.cumsum(_steps(lon))))
    for name, axis, steps in (("lat", lat, np.diff(lat)), ("lon", lon, np.diff(path))):
        wrong = np.flatnonzero(steps * steps[:1].sum() <= 0)
        if len(wrong):
            i = wrong[0]
            raise ValueError(
                f"{name} must run in one direction, but {name}[{i}] = {axis[i]:g} is followed by "
                f"{axis[i + 1]:g}; sort the axis first, or give a list of points with their areas, "
                "ga.grids.regional(lat, lon, areas=…)"
            )
    if corners is None:
        for name, axis in (("lat", lat), ("lon", lon)):
            if len(axis) < 2:
                raise ValueError(
                    f"{name} has one entry, {axis[0]:g}, and no neighbors to end its cell between; say "
                    "where it does: ga.grids.regional(lat, lon, corners=(lat_edges, lon_edges))"
                )
        parallels, meridians = edges_between(lat, path)
    else:
        parallels, meridians = (
            _axis_edges(name, axis, edges)
            for name, axis, edges in (("lat", lat, corners[0]), ("lon", path, corners[1]))
        )
    turn = abs(float(meridians[-1] - meridians[0]))
    if turn > 360.0 + 1e-6:
        raise ValueError(
            f"the {len(lon)} columns reach {turn:g}° around the globe: cells overlap. Drop those that are "
            f"there twice, lon[:{int(np.sum(np.abs(path - path[0]) < 360.0 - 1e-6))}]"
        )
    return RegionalLatLon(lat, path, parallels, meridians, _NONE if areas is None else areas)


def _axis_edges(name: str, axis: Floats, edges: Floats) -> Floats:
    """Where cells of an axis meet, from their edges or their bounds, in the direction of the axis."""
    n = len(axis)
    if edges.shape not in ((n + 1,), (n, 2)):
        raise ValueError(
            f"corners of {name} must be the edges [{n + 1}] between its {n} entries or the bounds [{n}, 2] "
            f"of each, got shape {edges.shape}"
        )
    if name == "lon":  # the edges nearest to the columns, whatever their origin
        about = axis[:, None] if edges.ndim == 2 else np.append(axis, axis[-1])
        edges = about + (edges - about + 180.0) % 360.0 - 180.0
    if edges.ndim == 2:
        rising = n < 2 or axis[1] > axis[0]
        low, high = np.sort(edges, axis=1).T if rising else -np.sort(-edges, axis=1).T
        apart = np.abs(high[:-1] - low[1:])
        width = np.abs(high - low)
        wrong = apart > 1e-3 * np.minimum(width[:-1], width[1:]) + 1e-9
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"the bounds of {name} overlap or leave gaps at {wrong.mean():.1%} of its steps: {edges[i]} "
                f"is followed by {edges[i + 1]}; give a list of points with their areas, "
                "ga.grids.regional(lat, lon, areas=…)"
            )
        edges = np.append(low, high[-1])
    steps = np.diff(edges)
    between = (edges[:-1] - axis) * (edges[1:] - axis) <= 1e-9
    if not (_is_axis(steps) and between.all()) or (name == "lat" and np.abs(edges).max() > 90.0 + 1e-6):
        raise ValueError(
            f"corners of {name} must run in one direction with an entry of {name} between each two, within "
            f"the sphere, got {edges} for {axis}"
        )
    return edges.clip(-90.0, 90.0) if name == "lat" else edges


def _of_array(
    lat: Floats, lon: Floats, corners: tuple[Floats, Floats] | None, areas: Floats | None
) -> RegionalLatLon | Curvilinear:
    rows, columns = lat.shape
    if corners is None and min(lat.shape) > 1:
        east = (lon - lon[:1] + 180.0) % 360.0 - 180.0
        if (lat == lat[:, :1]).all() and (np.abs(east) < 1e-12).all():
            return _between_axes(lat[:, 0], lon[0], None, areas)
    if corners is None and min(lat.shape) < 2:
        raise ValueError(
            f"lat and lon of shape {lat.shape} have no neighbors that cells could end between; say where "
            "they do: ga.grids.regional(lat, lon, corners=(corner_lat, corner_lon))"
        )
    north, east = (_NONE, _NONE) if corners is None else corners
    fits = ((rows + 1, columns + 1), (rows, columns, 4))
    if corners is not None and (north.shape not in fits or north.shape != east.shape):
        raise ValueError(
            f"corners must be two arrays {list(fits[0])}, where cells meet, or {list(fits[1])}, around each "
            f"cell, got shapes {north.shape} and {east.shape}"
        )
    grid = Curvilinear(lat, wrap_longitude(lon), north, east, _NONE if areas is None else areas)
    if north.ndim == 3:
        _check_joined(grid.corners, grid.bare)
    return grid


def _of_list(
    lat: Floats, lon: Floats, corners: tuple[Floats, Floats] | None, areas: Floats | None
) -> Cells | Points:
    n = len(lat)
    if corners is not None:
        north, east = corners
        if north.ndim != 2 or len(north) != n or north.shape[1] < 3 or north.shape != east.shape:
            raise ValueError(
                f"corners of a list must be two arrays [{n}, k] of at least three corners for each of the "
                f"{n} points, got shapes {north.shape} and {east.shape}"
            )
        return Cells(lat, wrap_longitude(lon), north, east, _NONE if areas is None else areas)
    if areas is None:
        raise ValueError(
            f"a list of {n} points does not say which are neighbors: give the corners of their cells or what "
            "they stand for, in steradians, ga.grids.regional(lat, lon, areas=…)"
        )
    return points(lat, lon, areas=areas)


def _corners(corners: object) -> tuple[Floats, Floats]:
    if not isinstance(corners, tuple | list) or len(corners) != 2:
        raise TypeError(
            "corners must be a pair, their latitudes and their longitudes, corners=(corner_lat, corner_lon), "
            f"got {type(corners).__name__}"
        )
    north, east = numbers("corners[0]", corners[0]), numbers("corners[1]", corners[1])
    if not (np.abs(north) <= 90.0 + 1e-6).all() or not np.isfinite(east).all():
        raise ValueError(
            "corners[0] must hold latitudes in [-90, 90], corners[1] finite longitudes, in degrees"
        )
    return north, east


def _check_points(lat: Floats, lon: Floats) -> None:
    for name, values, good in (("lat", lat, np.abs(lat) <= 90.0), ("lon", lon, np.isfinite(lon))):
        if not values.size:
            raise ValueError(f"{name} is empty: a region has at least one point")
        if not good.all():
            i = tuple(map(int, np.argwhere(~good)[0]))
            raise ValueError(
                f"{name} at index {i} is {values[i]:g}: lat must be in [-90, 90] and lon finite, in degrees. "
                "Leave out points that are missing: ga.grids.regional(lat[there], lon[there], areas=…)"
            )


def without_cells(
    lat: Floats, lon: Floats, corners: tuple[Floats, Floats], where: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Corners ``[rows, columns, 4]`` without the cells that close around no point or meet no neighbor.

    Only ``where`` that may be: over land the cells of ocean models are often none.
    """
    xyz, around = unit_vectors(lat, lon), unit_vectors(*corners)
    signed = signed_areas(around)
    wrong = ~(signed * np.sign(np.median(signed)) > 0) | ~inside(xyz, around)
    for a, b in _BESIDE:
        apart = _apart(around[a], around[b])
        wrong[a] |= apart
        wrong[b] |= apart
    wrong &= where
    north, east = (
        np.where(wrong[..., None], at[..., None], of) for at, of in zip((lat, lon), corners, strict=True)
    )
    return north, east


_ALL, _AFTER, _BEFORE = slice(None), slice(1, None), slice(-1)
#: places in an array of cells and in that of their neighbors, along rows and columns
_BESIDE = (((_AFTER, _ALL), (_BEFORE, _ALL)), ((_ALL, _AFTER), (_ALL, _BEFORE)))


def _apart(one: Floats, other: Floats) -> NDArray[np.bool_]:
    """Which cells ``[…, 4, 3]`` do not have two corners in common."""
    size = np.linalg.norm(one - np.roll(one, 1, axis=-2), axis=-1).max(-1)
    gaps = np.linalg.norm(one[..., :, None, :] - other[..., None, :, :], axis=-1).min(-1)
    apart: NDArray[np.bool_] = (gaps <= 1e-3 * size[..., None]).sum(-1) < 2
    return apart


def _check_joined(corners: Floats, bare: NDArray[np.bool_] | None) -> None:
    """Refuse arrays of cells whose neighbors do not meet in a side; ``bare`` points have none."""
    apart = []
    there = np.ones(corners.shape[:2], bool) if bare is None else ~bare
    for a, b in _BESIDE:
        both = there[a] & there[b]
        one, other = corners[a][both], corners[b][both]
        chosen = np.random.default_rng(0).permutation(len(one))[:20_000]
        apart.append(_apart(one[chosen], other[chosen]))
    wrong = np.concatenate(apart)
    if wrong.any():
        raise ValueError(
            f"{wrong.mean():.1%} of neighboring cells do not meet in a side: they overlap or leave gaps. "
            "Give a list of cells that are no neighbors: ga.grids.regional(lat.ravel(), lon.ravel(), areas=…)"
        )


def _check_areas(areas: Floats, grid: SphericalGrid) -> None:
    if areas.shape != grid.shape:
        raise ValueError(f"areas must have one entry for each point, {grid.shape}, got shape {areas.shape}")
    bad = ~((areas >= np.finfo(np.float32).tiny) & np.isfinite(areas))
    if bad.any():
        i = tuple(map(int, np.argwhere(bad)[0]))
        raise ValueError(
            f"areas at index {i} is {areas[i]}, no positive area in steradians, and so at {bad.mean():.1%} "
            "of the points. Leave those out, ga.grids.points(lat[areas > 0], lon[areas > 0], "
            "areas=areas[areas > 0]), or take the areas of the cells, without areas=…"
        )
    total = float(grid.weights.sum())  # without those of points that repeat others
    if total > 4.0 * np.pi * (1 + 1e-3):
        raise ValueError(
            f"areas sum to {total:.4g}, more than the 4π steradians of the sphere; divide square metres by "
            "the square of the radius: areas=areas / 6.371e6**2"
        )
    if isinstance(grid, Points):
        return
    # cells of rows that are no neighbors reach across what lies between: less than theirs may be right
    cells = dataclasses.replace(grid, areas=_NONE).weights  # type: ignore[call-arg]
    if not 0.1 < (ratio := total / float(cells.sum())) < 1.1:
        raise ValueError(
            f"areas sum to {total:.4g} steradians, {ratio:.0%} of the {float(cells.sum()):.4g} of the cells; "
            "are they in other units, or of other cells? Without areas=…, those of the cells are taken"
        )
