"""Grids recognised from a latitude and a longitude for every point."""

from __future__ import annotations

import numpy as np

from geoattn.grids.coordinates import POINTS_CALL, Coordinate, Match, Source, check_areas, rounded_up
from geoattn.grids.coverage import Hole, RegionError, hole
from geoattn.grids.from_region import from_region
from geoattn.grids.points import Points
from geoattn.grids.polygons import signed_areas
from geoattn.grids.repeats import distinct
from geoattn.grids.seams import kept_copies, surrounded
from geoattn.grids.sphere import unit_vectors, wrap_longitude
from geoattn.grids.structured import candidates, distance, permutation

#: a point where columns close and rows fold is there at most so often
MOST_COPIES = 4


def from_points(
    source: Source, lats: Coordinate, lons: Coordinate, tolerance: float, use_areas: bool
) -> Match:
    """The structured grid with these very points, else a list of points."""
    shape = lats.values.shape
    spacing = float(np.degrees(np.sqrt(4.0 * np.pi / lats.values.size)))
    accepted = max(tolerance * spacing, lats.rounding, lons.rounding)
    structured = list(candidates(lats.values.size))
    near = [(distance(g, lats.values, lons.values), g) for g in structured if g.shape == shape]
    if near:
        deviation, grid = min(near, key=lambda found: found[0])
        if deviation <= accepted:
            return Match(grid, lats.dims, "the grid's own", deviation, accepted)
        if deviation < 0.1 * spacing:
            raise ValueError(
                f"the points of {lats.name!r} and {lons.name!r} are nearly those of the {grid!r}, but off by "
                f"up to {deviation:.2g}° (tolerance {accepted:.2g}°). To take them for that: "
                f"ga.grids.recognise(ds, tolerance={rounded_up(deviation / spacing)}); to take them as "
                "they are: ga.grids.points(lat, lon)"
            )
    _check_not_flattened(lats, lons)
    if _has_cells(source, lats, lons, use_areas):
        try:
            return from_region(source, lats, lons, use_areas)
        except ValueError as error:
            if len(distinct(lats.values, lons.values)) < lats.values.size:
                error.add_note(
                    "over land cells are often none: leave out points without a value first. To take the "
                    f"points without such cells, each once: {_each_once(lats, lons)}"
                )
            raise
    _check_not_repeated(lats, lons)
    _check_covers_the_globe(source, lats, lons, use_areas)
    areas, rule = np.empty(0), "spherical Voronoi areas"
    for grid in structured:
        if (tokens := permutation(grid, lats.values.ravel(), lons.values.ravel(), accepted)) is not None:
            areas, rule = grid.weights.ravel()[tokens], f"those of the {grid!r}, in the file's order"
            break
    if use_areas and (given := source.areas(lats.dims)):
        name, values, units = given
        check_areas(name, values, units)
        areas, rule = values.ravel() * (4.0 * np.pi / values.sum()), f"cell areas in {name!r}"
    points = Points(
        latitudes=np.clip(lats.values.ravel(), -90.0, 90.0),
        longitudes=wrap_longitude(lons.values.ravel()),
        areas=areas,
    )
    return Match(points, lats.dims, rule, 0.0, accepted)


def _check_not_flattened(lats: Coordinate, lons: Coordinate) -> None:
    if lats.values.ndim != 1:
        return
    lat, lon = lats.values, lons.values
    starts = np.flatnonzero(np.diff(lat)) + 1
    width = int(starts[0]) if len(starts) else lat.size
    if 1 < width < lat.size and lat.size % width == 0:
        rows, columns = lat.reshape(-1, width), lon.reshape(-1, width)
        if (rows == rows[:, :1]).all() and (columns == columns[0]).all():
            dim = lats.dims[0]
            raise ValueError(
                f"{lats.name!r} and {lons.name!r} are a lat-lon grid of {len(rows)} × {width} points written "
                f"as one list. Give it its two dimensions back: "
                f"ds.coarsen({dim}={width}).construct({dim}=('row', 'column'))"
            )


def _has_cells(source: Source, lats: Coordinate, lons: Coordinate, use_areas: bool) -> bool:
    """Whether points have cells: within bounds, or as an array that closes and folds or repeats points."""
    if use_areas and source.bounds(lats) and source.bounds(lons):
        return True
    if lats.values.ndim != 2 or min(lats.values.shape) < 3:
        return False
    xyz = unit_vectors(lats.values, lons.values)
    kept, tokens = kept_copies(xyz), surrounded(xyz)
    copies = np.bincount(kept, minlength=len(kept)).max()
    if copies > MOST_COPIES:  # such as 0°N, 0°E where there is no cell: these have no neighbors
        return False
    closes = tokens[1, 0] >= 0
    return bool(closes and (copies > 1 or (tokens[[0, -1]] >= 0).any()))


def _check_not_repeated(lats: Coordinate, lons: Coordinate) -> None:
    """Refuse points that repeat others and have no place in cells, by the call that drops them."""
    keep = distinct(lats.values, lons.values)
    if len(keep) == lats.values.size:
        return
    first = int(np.setdiff1d(np.arange(lats.values.size), keep)[0])
    raise ValueError(
        f"{lats.values.size - len(keep)} of the {lats.values.size} points of {lats.name!r} and {lons.name!r} "
        f"repeat others; the first is point {first}, at "
        f"{lats.values.flat[first]:g}°N, {lons.values.flat[first]:g}°E. Drop them: "
        f"{_each_once(lats, lons)}"
    )


def _each_once(lats: Coordinate, lons: Coordinate) -> str:
    """The call that drops points which repeat others."""
    flat, dim = ("", lats.dims[0]) if len(lats.dims) == 1 else (f".stack(point={lats.dims})", "point")
    return f"ds{flat}.isel({dim}=ga.grids.distinct({lats.degrees}, {lons.degrees}))"


def _check_covers_the_globe(source: Source, lats: Coordinate, lons: Coordinate, use_areas: bool) -> None:
    found = _what_makes_it_a_region(source, lats, lons, use_areas)
    if found is not None:
        raise RegionError(
            f"the {lats.values.size} points of {lats.name!r} and {lons.name!r} cover a region: {found}. "
            f"For a region give the area of every point: {POINTS_CALL}"
        )


def _what_makes_it_a_region(
    source: Source, lats: Coordinate, lons: Coordinate, use_areas: bool
) -> Hole | str | None:
    """A hole between the points, the extent of their cells, or that an array of few points lies together."""
    xyz = unit_vectors(lats.values, lons.values).reshape(-1, 3)
    if (found := hole(xyz)) is not None:
        return found
    if use_areas and (north := source.bounds(lats)) and (east := source.bounds(lons)):
        share = np.abs(signed_areas(unit_vectors(north[1], east[1]))).sum() / (4.0 * np.pi)
        if share < 0.98:
            return f"its cells are {share:.0%} of the globe"
    centre = xyz.sum(0)
    if lats.values.ndim == 2 and (xyz @ centre).min() > 0.5 * np.linalg.norm(centre):
        return "all lie within 60° of their middle"
    return None
