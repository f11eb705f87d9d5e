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
from geoattn.tasks.shallow_water import CHANNELS, generate_trajectories
from geoattn.tasks.shallow_water.evaluation import persistence, rollout, root_mean_square_error
from geoattn.tasks.shallow_water.learning import Stepper, train
from geoattn.training import FitConfig


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--rows", type=int, default=24, help="rows of the grid (%(default)s)")
    parser.add_argument("--trajectories", type=int, default=24, help="flows to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps (%(default)s)")
    options = parser.parse_args(arguments)

    grid = ga.grids.gaussian(options.rows, 2 * options.rows)
    counts, states, hours = (options.trajectories, 2, 4), 16, 3.0
    training, validation, test = generate_trajectories(grid, sum(counts), states, hours).split(counts)

    hood = ga.geodesic(grid, radius=600.0 / options.rows)
    # fields change by their gradients: heads that look in different directions can take them
    config = TransformerConfig(
        grid,
        (hood,),
        in_channels=3,
        out_channels=3,
        dim=48,
        depth=3,
        features=2,
        position="directional",
        residual=False,
    )
    fit_config = FitConfig(steps=options.steps, learning_rate=8e-3)
    lightning.seed_everything(fit_config.seed, verbose=False)
    stepper = Stepper(config.build(), training, grid)
    train(stepper, grid, training, validation, options.output, fit_config)
    stepper.cpu().save(options.output / "model.pt")

    start = test[:, 0]
    for name, forecast in {
        "persistence": persistence(start, states),
        "sphere": rollout(stepper, start, states),
    }.items():
        error = root_mean_square_error(forecast, test, grid)
        for lead in (1, states // 2, states):
            values = ", ".join(f"{c} {e:.3g}" for c, e in zip(CHANNELS, error[lead], strict=True))
            print(f"{name:12} {lead * hours:4.0f} hours: {values}")


if __name__ == "__main__":
    main()
