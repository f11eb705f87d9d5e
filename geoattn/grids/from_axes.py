"""Lat-lon grids recognised from two axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import numpy as np

from geoattn._warning import warn
from geoattn.grids.coordinates import POINTS_CALL, Coordinate, Match, Source, check_areas, rounded_up
from geoattn.grids.coverage import RegionError
from geoattn.grids.latlon import LatLonGrid, equiangular, gaussian, latlon, lobatto
from geoattn.grids.sphere import Floats


def from_axes(source: Source, lats: Coordinate, lons: Coordinate, tolerance: float, use_areas: bool) -> Match:
    """The lat-lon grid with these two axes."""
    lon_start, lon_deviation = _longitude_axis(lons, tolerance)
    _check_monotonic(lats)
    nlat, nlon = lats.values.size, lons.values.size
    accepted = max(tolerance * 180.0 / nlat, lats.rounding)
    fits = [
        (float(np.abs(grid.lat_axis - lats.values).max()), grid)
        for grid in _candidates(lats.values, nlon, lon_start)
    ]
    near = [(deviation, grid) for deviation, grid in fits if deviation <= accepted]
    dims = (*lats.dims, *lons.dims)
    if not near and use_areas and (bounds := source.bounds(lats)) and bounds[1].shape == (nlat, 2):
        zones = _zones(lats, bounds[1])
        if zones is not None:
            own = latlon(lats.values, _columns(nlon, lon_start), areas=zones)
            return Match(own, dims, f"zones between the bounds in {bounds[0]!r}", lon_deviation, accepted)
    if not near:
        _refuse_rows(lats, *min(fits, key=lambda fit: fit[0]), accepted)
    deviation, grid = near[0]
    for _, other in near[1:]:
        # with three rows, Clenshaw–Curtis and Lobatto are one rule under two names
        if not np.allclose(other.lat_weights, grid.lat_weights, rtol=1e-6):
            raise ValueError(
                f"the rows of latitude {lats.name!r} fit both the {grid!r} and the {other!r} within "
                f"{accepted:.2g}°. Lower the tolerance: ga.grids.recognise(ds, tolerance=…)"
            )
    rule = "quadrature rule of the rows"
    if use_areas and (given := source.areas(dims)):
        rule = f"cell areas in {given[0]!r}"
        grid = latlon(grid.lat_axis, grid.lon_axis, areas=_row_areas(*given))
    elif grid.kind == "latlon":
        rule = "areas between the midpoints of the rows"
    return Match(grid, dims, rule, max(deviation, lon_deviation), accepted)


def _candidates(lat: Floats, nlon: int, lon_start: float) -> Iterator[LatLonGrid]:
    """The grids with as many rows as the file and its direction."""
    n, south_first = len(lat), bool(lat[0] < lat[-1])
    yield equiangular(n, nlon, poles=True, lon_start=lon_start, south_first=south_first)
    yield equiangular(n, nlon, poles=False, lon_start=lon_start, south_first=south_first)
    yield gaussian(n, nlon, lon_start=lon_start, south_first=south_first)
    yield lobatto(n, nlon, lon_start=lon_start, south_first=south_first)
    lon = _columns(nlon, lon_start)
    # with poles, but the first row is left out, or the last one, or both
    for first, last in ((1, 0), (0, 1), (1, 1)):
        whole = equiangular(n + first + last, nlon, south_first=south_first).lat_axis
        yield latlon(whole[first : len(whole) - last], lon)


def _columns(nlon: int, lon_start: float) -> Floats:
    return np.asarray(lon_start + np.arange(nlon) * (360.0 / nlon), dtype=np.float64)


def _zones(lats: Coordinate, bounds: Floats) -> Floats | None:
    """Areas of the rows between their bounds ``[nlat, 2]``, if these cover the globe without overlap."""
    low, high = bounds.min(axis=1), bounds.max(axis=1)
    order = np.argsort(lats.values)
    edges = np.append(low[order], high[order[-1]])
    accepted = lats.rounding + 1e-6
    fits = (
        np.abs(high[order] - edges[1:]).max() <= accepted
        and np.abs(edges[[0, -1]] - [-90.0, 90.0]).max() <= accepted
        and bool(((low < high) & (low <= lats.values) & (lats.values <= high)).all())
    )
    zones: Floats = np.sin(np.radians(high)) - np.sin(np.radians(low))
    return zones if fits else None


def _longitude_axis(lons: Coordinate, tolerance: float) -> tuple[float, float]:
    """Longitude of the first column, and the largest deviation from equal steps around the globe."""
    lon, n = lons.values, lons.values.size
    if n == 1:
        warn(
            f"longitude {lons.name!r} has one column, {lon[0]:g}°: it is taken for the mean around the "
            "circle, as in a zonal mean; a column of a region is not that"
        )
    step = 360.0 / n
    steps = (np.diff(lon) + 180.0) % 360.0 - 180.0
    accepted = max(tolerance * step, lons.rounding)
    repeated = np.flatnonzero(np.abs(steps) <= accepted)
    for i in repeated[:1]:
        raise ValueError(
            f"longitude {lons.name!r} repeats {lon[i]:g} at indices {i} and {i + 1}; "
            f"drop one of them: {lons.drop(repeated + 1)}"
        )
    if n > 2 and (steps < 0).any():
        i = int(np.flatnonzero(steps < 0)[0])
        raise ValueError(
            f"longitude {lons.name!r} does not run eastward: {lon[i]:g} is followed by {lon[i + 1]:g}. "
            f"Sort it first: {lons.sort}"
        )
    offsets = (lon - lon[0] - step * np.arange(n) + 180.0) % 360.0 - 180.0
    deviation = float(np.abs(offsets).max())
    if deviation > accepted:
        _refuse_columns(lons, steps, deviation, accepted)
    # most files start at a whole or a half step: take that exactly, not the file's rounded number
    halves = round(float(lon[0]) * n / 180.0)
    snapped = halves % (2 * n) * 180.0 / n
    if abs(halves * 180.0 / n - lon[0]) <= accepted:
        return snapped, max(deviation, abs(halves * 180.0 / n - float(lon[0])))
    return float(lon[0]), deviation


def _refuse_columns(lons: Coordinate, steps: Floats, deviation: float, accepted: float) -> NoReturn:
    lon, n = lons.values, lons.values.size
    step = float(np.median(steps))
    first, last = f"{lon[0]:g}°", f"{lon[-1]:g}°"
    beyond = 360.0 - float(steps.sum())  # from the last column to the first
    if beyond > 1.6 * float(np.abs(steps).max()):
        raise RegionError(
            f"longitude {lons.name!r} covers a region, {first} to {last}, and nothing tells the cells of it: "
            f"give every point and its area, {POINTS_CALL}"
        )
    if np.abs(steps - step).max() > max(0.01 * abs(step), lons.rounding):
        i = int(np.abs(steps - step).argmax())
        raise ValueError(
            f"longitude {lons.name!r} has no equal steps: {lon[i]:g} is followed by {lon[i + 1]:g}, while "
            f"most steps are {step:g}°. {_accept(deviation * n / 360.0)}"
            f"For irregular columns give every point and its area: {POINTS_CALL}"
        )
    again = n - round(360.0 / step)
    if 0 < again < n / 2 and abs(step * (n - again) - 360.0) < 0.5 * step:
        columns = (
            f"column, {last}, is its first, {first}," if again == 1 else f"{again} columns are its first"
        )
        raise ValueError(
            f"longitude {lons.name!r} closes the circle: its last {columns} again. Drop "
            f"{'it' if again == 1 else 'them'}: ds.isel({lons.dims[0]}=slice(None, -{again}))"
        )
    raise ValueError(
        f"longitude {lons.name!r} drifts {deviation:.2g}° away from {n} equal steps around the globe, "
        f"more than the tolerance of {accepted:.2g}°. {_accept(deviation * n / 360.0)}"
        f"For other columns give every point and its area: {POINTS_CALL}"
    )


def _accept(fraction: float) -> str:
    """The call that accepts a deviation, in units of the spacing, where that is not absurd."""
    if fraction > 0.3:
        return ""
    return f"To accept that: ga.grids.recognise(ds, tolerance={rounded_up(fraction)}). "


def _refuse_rows(lats: Coordinate, deviation: float, nearest: LatLonGrid, accepted: float) -> NoReturn:
    lat, n = lats.values, lats.values.size
    steps = np.abs(np.diff(lat))
    gap = 90.0 - min(abs(float(lat[0])), abs(float(lat[-1])))  # the wider of both polar gaps
    if n == 1 or lat[0] * lat[-1] > 0 or gap > 1.6 * max(steps[0], steps[-1]):
        raise RegionError(
            f"latitude {lats.name!r} covers a region, {lat[0]:g}° to {lat[-1]:g}°, and nothing tells the "
            f"cells of it: give every point and its area, {POINTS_CALL}"
        )
    i = int(np.abs(nearest.lat_axis - lat).argmax())
    raise ValueError(
        f"the {n} rows of latitude {lats.name!r}, {lat[0]:g}° to {lat[-1]:g}°, fit no grid. "
        f"The nearest is the {nearest!r}, but row {i} is at {lat[i]:.6g}° instead of "
        f"{nearest.lat_axis[i]:.6g}°, off by {deviation:.2g}° (tolerance {accepted:.2g}°). "
        f"{_accept(deviation * n / 180.0)}"
        "To weigh rows by the areas between their midpoints: ga.grids.latlon(lat, lon)"
    )


def _row_areas(name: str, areas: Floats, units: str) -> Floats:
    check_areas(name, areas, units)
    rows: Floats = areas.mean(axis=1)
    spread = np.abs(areas / rows[:, None] - 1.0).max()
    if spread > 1e-3:
        raise ValueError(
            f"the areas in {name!r} vary by {spread:.2g} along a row, so they are not those of whole cells. "
            "To leave them out: ga.grids.recognise(ds, use_areas=False)"
        )
    return rows


def _check_monotonic(lats: Coordinate) -> None:
    lat = lats.values
    steps = np.diff(lat)
    repeated = np.flatnonzero(steps == 0)
    for i in repeated[:1]:
        raise ValueError(
            f"latitude {lats.name!r} repeats {lat[i]:g} at indices {i} and {i + 1}; "
            f"drop one of them: {lats.drop(repeated + 1)}"
        )
    direction = np.sign(np.median(steps)) if len(steps) else 1.0
    for i in np.flatnonzero(np.sign(steps) != direction)[:1]:
        raise ValueError(
            f"latitude {lats.name!r} is not sorted: {lat[i]:g} is followed by {lat[i + 1]:g}. "
            f"Sort it first: {lats.sort}"
        )
