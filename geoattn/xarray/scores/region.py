"""The weights of a slice of a global grid: of its own cells, not of its parent's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids.coordinates import Coordinate, Source, axes


def slice_weights(ds: Any) -> xarray.DataArray | None:
    """Areas of the cells between the midpoints of two axes, in steradians; None for lists of points.

    The outermost cells reach as far outward as inward, and no further than a pole.

    Raises
    ------
    ValueError
        If rows or columns are left out between others.
    """
    source = Source(ds)
    lats, lons = axes(source.coordinate("latitude", None), source.coordinate("longitude", None))
    if len(lats.dims) != 1 or len(lons.dims) != 1 or lats.dims == lons.dims:
        return None
    if min(lats.values.size, lons.values.size) < 2:
        return None
    for axis in (lats, lons):
        _check_neighbours(axis)
    rows = np.abs(np.diff(np.sin(np.radians(_edges(lats.values).clip(-90.0, 90.0)))))
    steps = (np.diff(lons.values) + 180.0) % 360.0 - 180.0
    columns = np.abs(np.diff(np.radians(_edges(np.concatenate(([0.0], np.cumsum(steps)))))))
    dims = (*lats.dims, *lons.dims)
    coords = {dim: ds[dim] for dim in dims if dim in ds.coords}
    return xarray.DataArray(np.outer(rows, columns), coords, dims, "weights", {"units": "sr"})


def _check_neighbours(axis: Coordinate) -> None:
    """Refuse rows or columns that are no neighbours: the cells between them are no part of the region."""
    steps = (np.diff(axis.values) + 180.0) % 360.0 - 180.0
    wrong = np.flatnonzero(steps / np.median(steps) > 1.5) if (steps * steps[0] > 0).all() else [0]
    if len(wrong):
        before, after = axis.values[wrong[0] : wrong[0] + 2]
        (dim,) = axis.dims
        raise ValueError(
            f"{axis.name!r} jumps from {before:g} to {after:g}, or turns: such rows are no slice of a grid, "
            f"whose cells are known. Take their areas from the whole: weights=ga.xarray.weights(ds)"
            f".sel({dim}=forecast[{dim!r}])"
        )


def _edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    middles = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(([2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]))
