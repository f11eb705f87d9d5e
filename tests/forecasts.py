"""What tests of forecasts share: a source with every sort of variable, and a forecaster for it."""

import numpy as np
import torch
import xarray as xr

import geoattn as ga
from geoattn.xarray import Forecaster, Schema, forecast, statistics

STEP = np.timedelta64(6, "h")
LAND = np.random.default_rng(7).random((7, 12)) < 0.3


def source(steps=12):
    """Temperatures, humidity longitude first, a sea with land, clouds with moving gaps, a static height."""
    random = np.random.default_rng(0)

    def noise(*shape):
        return random.standard_normal(shape).astype(np.float32)

    ds = xr.Dataset(
        {
            "t": (("time", "level", "latitude", "longitude"), 250 + noise(steps, 3, 7, 12), {"units": "K"}),
            "q": (("time", "level", "longitude", "latitude"), noise(steps, 3, 12, 7)),
            "sst": (("time", "latitude", "longitude"), np.where(LAND, np.nan, 290 + noise(steps, 7, 12))),
            "cloud": (("time", "latitude", "longitude"), noise(steps, 7, 12)),
            "z": (("latitude", "longitude"), noise(7, 12), {"units": "m"}),
        },
        {
            "time": np.datetime64("2001-01-01", "ns") + STEP * np.arange(steps),
            "level": ("level", [200, 500, 850], {"units": "hPa"}),
            "latitude": ("latitude", np.linspace(90, -90, 7), {"units": "degrees_north"}),
            "longitude": ("longitude", 30.0 * np.arange(12), {"units": "degrees_east"}),
        },
        {"title": "a source"},
    )
    ds["cloud"] = ds.cloud.where(ds.cloud < 1)
    ds.t.encoding = {"dtype": "int16", "scale_factor": 0.001, "add_offset": 250.0, "_FillValue": -32767}
    return ds


VARIABLES = {"t": [850, 500], "q": [500], "sst": None, "cloud": None, "z": None}
MASKED = {"sst": "static", "cloud": "changing"}


def network(schema, seed=0):
    torch.manual_seed(seed)
    config = ga.models.TransformerConfig(
        schema.grid,
        ga.geodesic(schema.grid, radius=40),
        in_channels=len(schema),
        out_channels=len(schema.changing),
        dim=8,
        depth=1,
        num_heads=2,
    )
    model = config.build()
    with torch.no_grad():
        model.decoder.projection.weight.normal_(std=0.05)  # a new model is persistence
    return model


def prepared(folder):
    """A folder with a store, in.zarr, and a forecaster for it, model.pt."""
    source().to_zarr(folder / "in.zarr", consolidated=False)
    ds = xr.open_zarr(folder / "in.zarr", chunks=None, consolidated=False)
    schema = Schema.of(ds, VARIABLES, masked=MASKED)
    stats = statistics(folder / "in.zarr", schema)
    Forecaster(network(schema), stats, STEP).save(folder / "model.pt")
    return folder


def runner(folder, target):
    """forecast() with the store and the model of a prepared folder, into another folder."""

    def run(output="out.zarr", **options):
        options = {"steps": 3, "progress": False, "device": "cpu", **options}
        return forecast(folder / "model.pt", folder / "in.zarr", target / output, **options)

    return run
