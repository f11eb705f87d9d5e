"""Estimate depth from panoramas with attention on the sphere: train, score beside the row mean, draw.

    python examples/depth.py --output runs/depth
    python examples/depth.py --root 2D-3D-S --fold 1 --output runs/2d3ds

Without ``--root`` the panoramas are of rendered rooms. The folder receives metrics, scores, pictures and
checkpoints; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning

import geoattn as ga
from geoattn.models import Transformer, TransformerConfig
from geoattn.tasks.depth import DEPTH
from geoattn.tasks.panoramas import PanoramaConfig
from geoattn.tasks.panoramas.evaluation import evaluate
from geoattn.training import Data, FitConfig, fit


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--root", help="folder of 2D-3D-S; without it, rooms are rendered")
    parser.add_argument("--fold", type=int, default=1, help="fold of 2D-3D-S (%(default)s)")
    parser.add_argument("--rows", type=int, default=24, help="rows of the grid (%(default)s)")
    parser.add_argument("--rooms", type=int, default=600, help="rooms to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps (%(default)s)")
    options = parser.parse_args(arguments)

    held_out = {"val": max(4, options.rooms // 15), "test": max(8, options.rooms // 5)}
    data = PanoramaConfig(options.rows, options.rooms, root=options.root, fold=options.fold, **held_out)
    config = FitConfig(steps=options.steps, learning_rate=3e-3)
    lightning.seed_everything(config.seed, verbose=False)

    grid = data.grid
    hood = ga.geodesic(grid, radius=600.0 / options.rows)
    size = {"dim": 48, "depth": 4, "num_heads": 4, "features": 2, "residual": False}
    network = Transformer(TransformerConfig(grid, (hood,), 3, DEPTH.channels, **size))
    task = DEPTH.module(network, grid, config)
    fit(task, Data(data.split("train"), data.split("val"), config), options.output, config)

    found = evaluate(DEPTH, task.eval().cpu().predict, data, options.output, angles=(0.0, 30.0, 60.0, 90.0))
    for name, scores in found["test"].items():
        print(f"{name:20}", ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))


if __name__ == "__main__":
    main()
