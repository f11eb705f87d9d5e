"""Forecast shallow water with attention on the sphere: simulate, train, roll out, score beside persistence.

    python examples/shallow_water.py --output runs/water

The folder receives metrics, the learning curve and checkpoints; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning

import geoattn as ga
from geoattn.models import TransformerConfig
from geoattn.tasks.shallow_water import CHANNELS
from geoattn.tasks.shallow_water.experiment import DataSettings, load, scales, stores, windows
from geoattn.training import FitConfig, train_forecaster
from geoattn.xarray import Forecaster, Schema, forecast, metrics


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--rows", type=int, default=24, help="rows of the grid (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=24, help="flows to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps (%(default)s)")
    options = parser.parse_args(arguments)

    data = DataSettings(
        str(options.output / "data"),
        nlat=options.rows,
        nlon=2 * options.rows,
        training=options.trajectories,
        test=4,
        states=17,
        mean_depth=8000.0,
    )
    # zarr stores, which `geoattn forecast` reads as well; the channels are in the solver's order
    parts = stores(data)
    schema = Schema.of(load(parts["training"]), CHANNELS)

    # fields change by their gradients: heads that look in different directions can take them
    config = TransformerConfig(
        data.grid,
        ga.geodesic(data.grid, radius=600.0 / options.rows),
        in_channels=len(schema),
        out_channels=len(schema),
        dim=48,
        depth=3,
        features=2,
        position="directional",
        residual=False,
    )
    fit = FitConfig(steps=options.steps, learning_rate=8e-3)
    lightning.seed_everything(fit.seed, verbose=False)
    # the change over a step is learned; mass is kept, and no field grows rougher than those of the training
    forecaster = Forecaster(
        config.build(),
        scales(parts["training"], schema),  # no change leads from one trajectory into the next
        data.step,
        predicts="change",
        conserve=True,
        bound_variance=True,
    )
    training, validation = (windows(parts[part], schema) for part in ("training", "validation"))
    train_forecaster(forecaster, training, validation, options.output, fit)
    forecaster.save(options.output / "model.pt")

    truth = load(parts["test"]).load()
    predicted = forecast(
        forecaster,
        parts["test"],
        options.output / "forecast.zarr",
        steps=data.states - 1,
        times=truth.time.values[:: data.states],
        resume=True,
    )
    for name, fields in {
        "persistence": metrics.persistence(predicted, truth),
        "sphere": predicted,
    }.items():
        error = metrics.rmse(fields, truth)
        for lead in (1, (data.states - 1) // 2, data.states - 1):
            values = ", ".join(f"{c} {float(error[c][lead - 1]):.3g}" for c in CHANNELS)
            print(f"{name:12} {lead * data.step_hours:4.0f} hours: {values}")


if __name__ == "__main__":
    main()
