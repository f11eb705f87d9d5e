"""Segment panoramas with attention on the sphere: train, score beside the class prior, draw.

    python examples/segmentation.py --output runs/segmentation
    python examples/segmentation.py --root 2D-3D-S --fold 1 --output runs/2d3ds

Without ``--root`` the panoramas are of rendered rooms. The folder receives metrics, pictures and
checkpoints; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
from torch.utils.data import DataLoader

import geoattn as ga
from geoattn.models import Transformer, TransformerConfig
from geoattn.plot import learning_curves, segmentation_picture
from geoattn.tasks.panoramas import CLASSES, LEGEND, RenderedRooms, Stanford2D3DS
from geoattn.tasks.panoramas.robustness import score
from geoattn.tasks.segmentation import ClassPrior, Segmentation, SegmentationScores
from geoattn.training import Data, FitConfig, fit


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--root", type=Path, help="folder of 2D-3D-S; without it, rooms are rendered")
    parser.add_argument("--fold", type=int, default=1, help="fold of 2D-3D-S (%(default)s)")
    parser.add_argument("--rows", type=int, default=24, help="rows of the grid (%(default)s)")
    parser.add_argument("--rooms", type=int, default=600, help="rooms to train on (%(default)s)")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps (%(default)s)")
    options = parser.parse_args(arguments)

    grid = ga.grids.equiangular(options.rows, 2 * options.rows, poles=False)
    splits = ("train", "val", "test")
    if options.root:
        data = {split: Stanford2D3DS(options.root, options.fold, grid, split) for split in splits}
    else:
        counts = (options.rooms, max(8, options.rooms // 10), max(8, options.rooms // 5))
        data = {
            s: RenderedRooms(grid, n, s, tilt=30.0, supersampling=3)
            for s, n in zip(splits, counts, strict=True)
        }

    hood = ga.geodesic(grid, radius=600.0 / options.rows)
    config = TransformerConfig(
        grid, (hood,), 3, len(CLASSES), dim=48, depth=4, num_heads=4, features=2, residual=False
    )
    fit_config = FitConfig(steps=options.steps, learning_rate=3e-3)
    lightning.seed_everything(fit_config.seed, verbose=False)
    task = Segmentation(Transformer(config), grid, fit_config)
    fit(task, Data(data["train"], data["val"], fit_config), options.output, fit_config)
    task.eval().cpu()

    prior = ClassPrior(grid, (sample["label"] for sample in data["train"]), by_row=True)
    test = DataLoader(data["test"], batch_size=8)
    predictors = {"class prior by row": prior, "sphere": task.predict}
    for name, scores in score(predictors, test, "label", lambda: SegmentationScores(grid)).items():
        print(f"{name:20}", ", ".join(f"{key} {value:.3f}" for key, value in scores.items()))
    batch = next(iter(DataLoader(data["test"], batch_size=4)))
    shown = task.predict(batch["rgb"])
    segmentation_picture(
        options.output / "panoramas.png", grid, batch["rgb"], batch["label"], shown, legend=LEGEND
    )
    log = options.output / "metrics.csv"
    learning_curves(options.output / "curves.png", {"sphere": log}, ["train_loss", "val_area_mean_iou"])


if __name__ == "__main__":
    main()
