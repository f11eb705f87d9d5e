"""The weights of a slice of a global grid: of its own cells, not of its parent's rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids.coordinates import Source, axes


def slice_weights(ds: Any) -> xarray.DataArray | None:
    """Areas of the cells between the midpoints of two axes, in steradians; None for lists of points.

    The outermost cells reach as far outward as inward, and no further than a pole.
    """
    source = Source(ds)
    lats, lons = axes(source.coordinate("latitude", None), source.coordinate("longitude", None))
    if len(lats.dims) != 1 or len(lons.dims) != 1 or lats.dims == lons.dims:
        return None
    if min(lats.values.size, lons.values.size) < 2:
        return None
    rows = np.abs(np.diff(np.sin(np.radians(_edges(lats.values).clip(-90.0, 90.0)))))
    steps = (np.diff(lons.values) + 180.0) % 360.0 - 180.0
    columns = np.abs(np.diff(np.radians(_edges(np.concatenate(([0.0], np.cumsum(steps)))))))
    dims = (*lats.dims, *lons.dims)
    coords = {dim: ds[dim] for dim in dims if dim in ds.coords}
    return xarray.DataArray(np.outer(rows, columns), coords, dims, "weights", {"units": "sr"})


def _edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    middles = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate(([2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]))
