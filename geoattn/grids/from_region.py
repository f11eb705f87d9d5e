"""Regions recognised from the coordinates of a data set, and what it says of their cells."""

from __future__ import annotations

import numpy as np

from geoattn.grids.base import SphericalGrid
from geoattn.grids.coordinates import Coordinate, Match, Source, steradians
from geoattn.grids.coverage import RegionError
from geoattn.grids.curvilinear import Curvilinear
from geoattn.grids.regional import regional, without_cells
from geoattn.grids.sphere import Floats


def from_region(
    source: Source, lats: Coordinate, lons: Coordinate, use_areas: bool, refusal: RegionError | None = None
) -> Match:
    """The region with these axes, arrays or lists of points; ``refusal`` where nothing tells its cells.

    Bounds are the corners of cells, and without them the middle between neighboring points is. Areas in the
    file are the weights.
    """
    is_list = lats.dims == lons.dims
    dims = lats.dims if is_list else (*lats.dims, *lons.dims)
    north, east = (source.bounds(axis) if use_areas else None for axis in (lats, lons))
    corners = (north[1], east[1]) if north and east else None
    given = source.areas(dims) if use_areas else None
    alone = min(lats.values.size, lons.values.size) < 2 if not is_list else min(lats.values.shape) < 2
    if refusal and corners is None and (alone or (is_list and len(dims) == 1 and given is None)):
        raise refusal
    if not is_list and corners is None and given is None:
        for axis in (lats, lons):
            _check_neighbors(axis)
    rule = "areas of the cells, which end halfway to neighboring points"
    if north and east:
        rule = f"areas of the cells within the bounds {north[0]!r} and {east[0]!r}"
    areas = None
    if given is not None:
        areas, rule = steradians(*given, source.radius), f"cell areas in {given[0]!r}"
    try:
        grid = _with_land(source, lats, lons, corners, areas)
    except ValueError as error:
        if corners is not None or areas is not None:
            error.add_note(
                f"said of {'bounds' if corners is not None else 'areas'} in the file; to go by the points "
                "alone: ga.grids.recognise(ds, use_areas=False)"
            )
        raise
    if isinstance(grid, Curvilinear) and grid.repeats is not None:
        rule += f"; {int(grid.repeats.sum())} points that repeat others count once"
    if isinstance(grid, Curvilinear) and grid.bare is not None:
        none = grid.size - grid.counted.size - (0 if grid.repeats is None else int(grid.repeats.sum()))
        rule += f"; {none} points without a value have no cells" if none else ""
    return Match(grid, dims, rule, 0.0, max(lats.rounding, lons.rounding))


def _with_land(
    source: Source,
    lats: Coordinate,
    lons: Coordinate,
    corners: tuple[Floats, Floats] | None,
    areas: Floats | None,
) -> SphericalGrid:
    """The region; where bounds are no cells at points that hold no value, without these."""
    try:
        return regional(lats.values, lons.values, corners, areas)
    except ValueError:
        if corners is None or corners[0].ndim != 3 or (land := source.empty(lats.dims)) is None:
            raise
        fewer = without_cells(lats.values, lons.values, corners, land)
        return regional(lats.values, lons.values, fewer, areas)


def _check_neighbors(axis: Coordinate) -> None:
    """Refuse rows or columns that are no neighbors: the cells between them are no part of the region."""
    steps: Floats = (np.diff(axis.values) + 180.0) % 360.0 - 180.0
    wrong = np.flatnonzero(steps / np.median(steps) > 1.5) if (steps * steps[0] > 0).all() else [0]
    if len(wrong):
        before, after = axis.values[wrong[0] : wrong[0] + 2]
        (dim,) = axis.dims
        raise ValueError(
            f"{axis.name!r} jumps from {before:g} to {after:g}, or turns: such rows are no slice of a grid, "
            "whose cells are known. Take the areas of the whole with them, "
            f"ds.assign_coords(cell_area=ga.xarray.weights(whole).sel({dim}=ds[{dim!r}]))"
        )
