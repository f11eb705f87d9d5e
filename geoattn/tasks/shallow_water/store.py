"""Trajectories and forecasts as labelled data: to xarray, to zarr in one atomic step, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from geoattn._files import whole
from geoattn.grids import LatLonGrid
from geoattn.tasks.shallow_water.solver import CHANNELS

if TYPE_CHECKING:
    import xarray

#: CF attributes of the channels
ATTRIBUTES = {
    "depth": {"long_name": "depth of the fluid", "units": "m"},
    "vorticity": {
        "long_name": "relative vorticity",
        "standard_name": "atmosphere_relative_vorticity",
        "units": "s-1",
    },
    "divergence": {
        "long_name": "divergence of the wind",
        "standard_name": "divergence_of_wind",
        "units": "s-1",
    },
}
DIMENSIONS = ("time", "prediction_timedelta", "latitude", "longitude")


def to_dataset(
    fields: Tensor, grid: LatLonGrid, step_hours: float, attributes: dict[str, str]
) -> xarray.Dataset:
    """``fields [n, steps + 1, 3, nlat, nlon]`` as a Dataset with WeatherBench2's dimension names.

    The dimensions are ``time`` (one number per initial state), ``prediction_timedelta``,
    ``latitude`` and ``longitude``. Coordinates and variables carry CF attributes, and the grid's
    quadrature weights come along as ``cell_area`` in steradians.
    """
    import xarray

    seconds = (np.arange(fields.shape[1]) * step_hours * 3600).round().astype("timedelta64[s]")
    coordinates: dict[str, Any] = {
        "time": ("time", np.arange(fields.shape[0]), {"long_name": "number of the initial state"}),
        "prediction_timedelta": (
            "prediction_timedelta",
            seconds.astype("timedelta64[ns]"),
            {"long_name": "lead time"},
        ),
        "latitude": (
            "latitude",
            grid.lat_axis,
            {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"},
        ),
        "longitude": (
            "longitude",
            grid.lon_axis,
            {"standard_name": "longitude", "units": "degrees_east", "axis": "X"},
        ),
        "cell_area": (
            ("latitude", "longitude"),
            np.array(grid.weights),
            {"long_name": "quadrature weight of the cell", "units": "sr"},
        ),
    }
    variables = {
        name: (
            DIMENSIONS,
            fields[:, :, channel].numpy(),
            ATTRIBUTES[name] | {"cell_measures": "area: cell_area"},
        )
        for channel, name in enumerate(CHANNELS)
    }
    return xarray.Dataset(variables, coordinates, {"Conventions": "CF-1.11", **attributes})


def write_zarr(dataset: xarray.Dataset, path: Path) -> None:
    """Write a whole store or nothing: it takes its name only when it is complete."""
    with whole(path) as partial:
        dataset.to_zarr(partial, mode="w-", consolidated=False)


def read_fields(path: Path) -> Tensor:
    """The fields ``[n, steps + 1, 3, nlat, nlon]`` of a store that :func:`write_zarr` wrote."""
    import xarray

    with xarray.open_zarr(path, consolidated=False, chunks=None) as dataset:
        arrays = [dataset[name].transpose(*DIMENSIONS).values for name in CHANNELS]
    return torch.from_numpy(np.stack(arrays, axis=2))
