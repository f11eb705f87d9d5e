"""Forecasts as labelled data: tensors to an xarray Dataset, and to zarr in one atomic step."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from geoattn.grids.latlon import LatLonGrid

if TYPE_CHECKING:
    import xarray

#: name → (long name, CF standard name or None, units)
Variables = dict[str, tuple[str, str | None, str]]


def to_dataset(
    forecast: Tensor, grid: LatLonGrid, variables: Variables, step_hours: float, attributes: dict[str, str]
) -> xarray.Dataset:
    """``forecast [n, steps + 1, nlat, nlon, C]`` as a Dataset with WeatherBench2's dimension names.

    Dimensions are ``time`` (one per initial state), ``prediction_timedelta``, ``latitude`` and
    ``longitude``; coordinates and variables carry CF attributes.
    """
    import xarray

    lead = (np.arange(forecast.shape[1]) * step_hours * 3600).astype("timedelta64[s]").astype("timedelta64[ns]")
    coordinates = {
        "time": ("time", np.arange(forecast.shape[0]), {"long_name": "initial state"}),
        "prediction_timedelta": ("prediction_timedelta", lead, {"long_name": "lead time"}),
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
            {"long_name": "quadrature weight", "units": "sr"},
        ),
    }
    fields = {}
    for channel, (name, (long_name, standard_name, units)) in enumerate(variables.items()):
        described = {"long_name": long_name, "units": units}
        if standard_name is not None:
            described["standard_name"] = standard_name
        dims = ("time", "prediction_timedelta", "latitude", "longitude")
        fields[name] = (dims, forecast[..., channel].numpy(), described)
    return xarray.Dataset(fields, coordinates, {"Conventions": "CF-1.11", **attributes})


def write_zarr(dataset: xarray.Dataset, path: Path) -> None:
    """Write a whole store or nothing: it appears under its name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    dataset.to_zarr(partial, mode="w", consolidated=False)
    if path.exists():
        shutil.rmtree(path)
    os.replace(partial, path)
