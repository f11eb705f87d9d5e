"""Train a forecaster on a store of any grid and convention, forecast, and score the forecast.

    python examples/climate_stores.py stores            # five small stores to try it on
    python examples/climate.py stores/era5.zarr --output runs/era5
    python examples/climate.py stores/healpix.zarr --output runs/healpix

Nothing here depends on the grid, the names or the order of the file: the grid is recognised, the schema
names the channels, and what is written has the file's own coordinates.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import lightning
import numpy as np
import torch
import xarray as xr

import geoattn as ga
from geoattn.training import FitConfig, train_forecaster
from geoattn.xarray import Forecaster, Schema, Windows, forecast, metrics, statistics


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train on a store, forecast, and score.")
    parser.add_argument("store", help="zarr store with a time axis, on any grid of the globe")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint and forecast")
    parser.add_argument("--training-steps", type=int, default=300, help="optimiser steps (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="at its highest (%(default)s)")
    parser.add_argument("--forecast-steps", type=int, default=8, help="steps to forecast (%(default)s)")
    parser.add_argument("--dim", type=int, default=32, help="channels of the transformer (%(default)s)")
    parser.add_argument("--members", type=int, default=1, help="members of the ensemble (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    lightning.seed_everything(options.seed, verbose=False)

    ds = xr.open_zarr(options.store, chunks=None, consolidated=False)
    print(ds.geoattn)
    schema = describe(ds)
    print(schema)
    times = ds[schema.sample_dims[0]].values
    split = len(times) * 3 // 4  # trained on the first three quarters

    train, rest = slice(times[0], times[split - 1]), slice(times[split], None)
    stats = statistics(options.store, schema, times=train)
    forecaster = Forecaster(network(schema, options.dim), stats, step_of(times))
    # minimises the area-weighted error of one step, in units of the typical change over it: persistence has 1
    train_forecaster(
        forecaster,
        Windows(options.store, schema, times=train),
        Windows(options.store, schema, times=rest),
        options.output / "training",
        FitConfig(
            steps=options.training_steps,
            validate_every=math.gcd(options.training_steps, 50),
            learning_rate=options.learning_rate,
            seed=options.seed,
        ),
    )
    checkpoint = options.output / "forecaster.pt"
    forecaster.save(checkpoint)

    # `geoattn forecast --checkpoint … --input … --output … --steps …` does the same
    starts = times[split : len(times) - options.forecast_steps : 4]
    predicted = forecast(
        checkpoint,
        options.store,
        options.output / "forecast.zarr",
        steps=options.forecast_steps,
        times=list(starts),
        members=options.members,
    )
    print(predicted)
    return 0 if score(predicted, ds, schema) else 1


def describe(ds: xr.Dataset) -> Schema:
    """All variables on the grid; what is missing in the first sample is missing always."""
    whole = Schema.of(ds)
    first = ds.isel(dict.fromkeys(whole.sample_dims, 0))
    holes = [name for name in whole.names if first[name].isnull().any()]
    return Schema.of(ds, masked=dict.fromkeys(holes, "static"))


def step_of(times: np.ndarray) -> np.timedelta64:
    """The spacing of the times, of any calendar."""
    return np.timedelta64(times[1] - times[0])


def network(schema: Schema, dim: int) -> torch.nn.Module:
    """A transformer over discs that reach about three points far."""
    radius = 3.2 * np.degrees(np.sqrt(4 * np.pi / schema.grid.size))
    config = ga.models.TransformerConfig(
        schema.grid,
        ga.geodesic(schema.grid, radius=radius),
        in_channels=len(schema),
        out_channels=len(schema.changing),
        dim=dim,
        depth=2,
        num_heads=4,
    )
    return config.build()


def score(predicted: xr.Dataset, truth: xr.Dataset, schema: Schema) -> bool:
    """Print the errors beside those of persistence; True if the forecast is better at the last lead time."""
    if "realization" in predicted.dims:
        predicted = predicted.mean("realization", keep_attrs=True)
    mask = "truth" if schema.masked else None
    forecasts = (predicted, metrics.persistence(predicted, truth))
    ours, theirs = (metrics.rmse(f, truth, mask=mask) for f in forecasts)
    better = True
    for name in schema.changing.names:
        last = {"prediction_timedelta": -1}
        error, reference = (float(e[name].isel(last).mean()) for e in (ours, theirs))
        better &= error < reference
        print(
            f"{name:>28}: RMSE {error:8.3f}, persistence {reference:8.3f} {ours[name].attrs.get('units', '')}"
        )
    return better


if __name__ == "__main__":
    sys.exit(main())
