"""Four geometries, three tasks, three seeds: what each step from the plane to the sphere is worth.

    python benchmarks/ablation.py [--tasks …] [--settings …] [--seeds 0 1 2] [--steps N]
                                  [--folder runs/ablation] [--output results.json]

Each cell is one run of `geoattn train` at equal parameters, steps and data, scored on unseen samples; only
the geometry of attention differs (geoattn/tasks/geometry.py). Beside them stand predictors that do not
look, and torch-harmonics' own transformer and SegFormer, as wide as comes closest to the same number of
parameters, trained by the same loop on the same batches. A cell that is done is not run again.

Rooms are seen by cameras held in any attitude, upside down included, and the models are told nothing of
position: what they know of it they have from the geometry of attention.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import sys
from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import geoattn as ga
from geoattn._files import write_json
from geoattn.plot import figures
from geoattn.tasks.depth import experiment as depth
from geoattn.tasks.geometry import SETTINGS
from geoattn.tasks.panoramas import Sample
from geoattn.tasks.panoramas import experiment as panoramas
from geoattn.tasks.panoramas.robustness import score
from geoattn.tasks.segmentation import experiment as segmentation
from geoattn.tasks.settings import ModelSettings
from geoattn.tasks.shallow_water import experiment as shallow_water
from geoattn.training import FitConfig

PEER = "torch-harmonics"
WATER_MODEL = ModelSettings(dim=48, depth=3, num_heads=4, radius=25.0, features=2, position="directional")
WATER_FIT = FitConfig(steps=240, validate_every=80, learning_rate=8e-3)

ROOM_MODEL = ModelSettings(dim=32, depth=2, num_heads=4, patch=2, stages=2, radius=30.0, features=0)
ROOM_FIT = FitConfig(steps=600, validate_every=200, learning_rate=2e-3)


class Rooms(panoramas.DataSettings):
    """Rendered once for all cells."""

    def part(self, split: str, **attitude: Any) -> Dataset[Sample]:
        return rendered(split, **attitude)


ROOMS = Rooms(nlat=32, nlon=64, training=2000, validation=16, test=200, tilt=180.0, supersampling=3)


@cache
def rendered(split: str, **attitude: Any) -> Dataset[Sample]:
    return panoramas.DataSettings.part(ROOMS, split, **attitude)


#: the score that decides, and whether more of it is better
HEADLINE = {
    "shallow-water": ("error / persistence", False),
    "segmentation": ("area_mean_iou", True),
    "depth": ("area_abs_rel", False),
}


# one cell -------------------------------------------------------------------------------------


def water_settings(options: argparse.Namespace, fit: FitConfig) -> shallow_water.Settings:
    data = shallow_water.DataSettings(
        str(options.folder / "shallow-water-data"), nlat=24, nlon=48, training=24, states=17
    )
    return shallow_water.Settings(data, WATER_MODEL, fit, lead_steps=16)


def water_cell(settings: shallow_water.Settings, folder: Path, peer: nn.Module | None) -> dict[str, Any]:
    forecaster = shallow_water.train(settings, folder, peer)
    result = shallow_water.score(forecaster, settings, folder)
    write_json(result, folder / "evaluation.json")
    model, still = (result[f"test_{name}"]["rmse"] for name in ("model", "persistence"))
    ratios = {channel: np.divide(model[channel], still[channel]) for channel in model}
    galewsky, still = (result[f"galewsky_{name}"]["rmse"]["vorticity"] for name in ("model", "persistence"))
    return {
        "error / persistence": float(np.mean([ratio.mean() for ratio in ratios.values()])),
        **{f"{channel}, error / persistence": float(ratio.mean()) for channel, ratio in ratios.items()},
        "galewsky vorticity, error / persistence": float(np.mean(np.divide(galewsky, still))),
        "below persistence at every lead time": float(result["below_persistence"]),
        "stable for 200 steps": float(result["stable"]),
    }


def room_cell(
    experiment: panoramas.Experiment, settings: panoramas.Settings, folder: Path, peer: nn.Module | None
) -> dict[str, Any]:
    module = panoramas.train(experiment, settings, folder, peer)
    test = DataLoader(settings.data.part("test"), batch_size=8)
    empty = partial(experiment.scores, settings.data.grid)
    return score({"model": module.predict}, test, experiment.truth, empty)["model"]


def cell(task: str, setting: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score, or read what an earlier run found."""
    folder = options.folder / task / f"{setting}-{seed}"
    done = folder / "cell.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    print(f"\n{task}, {setting}, seed {seed}", flush=True)
    fit = dataclasses.replace(WATER_FIT if task == "shallow-water" else ROOM_FIT, seed=seed)
    if options.steps:
        fit = dataclasses.replace(fit, steps=options.steps, validate_every=options.steps)
    settings: Any = (
        water_settings(options, fit)
        if task == "shallow-water"
        else panoramas.Settings(ROOMS, ROOM_MODEL, fit)
    )
    own = setting if setting in SETTINGS else "sphere"
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, geometry=own))
    if task == "shallow-water":
        network, run = shallow_water.network(settings), partial(water_cell, settings, folder)
    else:
        experiment = {"segmentation": segmentation, "depth": depth}[task].EXPERIMENT
        network = panoramas.network(experiment, settings)
        run = partial(room_cell, experiment, settings, folder)
    parameters = count(network)
    peer = None
    if setting == PEER:
        torch.manual_seed(seed)
        peer = equal_peer(task, settings, parameters, network.config.out_channels)
        parameters = count(peer)
    result: dict[str, Any] = {"parameters": parameters, **run(peer)}
    rounds = json.loads((folder / "metrics.json").read_text())["rounds"]
    result["seconds_per_step"] = min(row["seconds_per_step"] for row in rounds)
    write_json(result, done)
    return result


# torch-harmonics' own models --------------------------------------------------------------------


def equal_peer(task: str, settings: Any, parameters: int, channels: int) -> nn.Module:
    """The width whose number of parameters comes closest."""
    make = partial(water_peer if task == "shallow-water" else room_peer, settings, channels)
    step = settings.model.num_heads
    widths = range(step, 40 * step, step)
    with torch.random.fork_rng():
        width = min(widths, key=lambda width: abs(count(make(width)) - parameters))
    return make(width)


def water_peer(settings: shallow_water.Settings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalTransformer

    model = settings.model
    return SphericalTransformer(
        img_size=settings.data.grid.shape,
        grid="legendre-gauss",
        grid_internal="legendre-gauss",
        scale_factor=1,
        in_chans=3,
        out_chans=channels,
        embed_dim=width,
        num_layers=model.depth,
        num_heads=model.num_heads,
        normalization_layer="instance_norm",
        attention_mode="neighborhood",
        theta_cutoff=math.radians(model.radius),
        bias=True,
    )


def room_peer(settings: panoramas.Settings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalSegformer

    model = settings.model
    return SphericalSegformer(
        img_size=settings.data.grid.shape,
        grid="equiangular",  # with poles, as its examples take panoramas: it has no cell-centred grid
        grid_internal="equiangular",
        in_chans=3,
        out_chans=channels,
        embed_dims=[width * 2**stage for stage in range(model.stages)],
        heads=[model.num_heads * 2**stage for stage in range(model.stages)],
        depths=[model.depth] * model.stages,
        scale_factor=2,
        drop_path_rate=0.0,
        attention_mode="neighborhood",
        theta_cutoff=math.radians(model.radius),
    )


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# the table --------------------------------------------------------------------------------------


def trivial_rows(task: str) -> dict[str, dict[str, float]]:
    """Scores of what does not look; persistence is 1 by the definition of the score."""
    if task == "shallow-water":
        return {"persistence": {"error / persistence": 1.0}}
    experiment = {"segmentation": segmentation, "depth": depth}[task].EXPERIMENT
    test = DataLoader(ROOMS.part("test"), batch_size=8)
    empty: Callable[[], Any] = partial(experiment.scores, ROOMS.grid)
    return score(panoramas.trivial(experiment, ROOMS), test, experiment.truth, empty)


def summary(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of everything that was measured."""
    return {
        name: {
            "mean": float(np.mean([c[name] for c in cells])),
            "spread": float(np.std([c[name] for c in cells], ddof=1)) if len(cells) > 1 else 0.0,
        }
        for name in cells[0]
    }


def show(task: str, rows: dict[str, Any], trivial: dict[str, dict[str, float]]) -> None:
    name, more = HEADLINE[task]
    print(f"\n{task}: {name}, {'more' if more else 'less'} is better")
    for setting, row in rows.items():
        value, seconds = row[name], row["seconds_per_step"]["mean"]
        size = f"{row['parameters']['mean']:>9,.0f} parameters, {1000 * seconds:6.0f} ms a step"
        print(f"  {setting:<20}{value['mean']:8.4f} ± {value['spread']:.4f}   {size}")
        if task == "shallow-water":
            for check in ("below persistence at every lead time", "stable for 200 steps"):
                print(f"  {'':<20}{check}: {row[check]['mean']:.0%} of the seeds")
    for setting, scores in trivial.items():
        print(f"  {setting:<20}{scores[name]:8.4f}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Every seed a point, every mean a bar; what does not look is a dashed line."""
    figure = figures.new(4.0 * len(results), 3.6)
    axes = figure.subplots(1, len(results), squeeze=False)[0]
    for ax, (task, result) in zip(axes, results.items(), strict=True):
        name, more = HEADLINE[task]
        rows = result["rows"]
        ax.bar(range(len(rows)), [row[name]["mean"] for row in rows.values()], color="0.85")
        for place, found in enumerate(result["cells"].values()):
            ax.plot([place] * len(found), [c[name] for c in found], "o", color="tab:blue", markersize=4)
        heights: dict[float, list[str]] = {}  # predictors that come out alike share a line
        for trivial, scores in result["trivial"].items():
            heights.setdefault(round(scores[name], 4), []).append(trivial)
        for height, names in heights.items():
            ax.axhline(height, color="0.4", linestyle="--", linewidth=1)
            place = (len(rows) - 0.5, height)
            ax.annotate(", ".join(names), place, ha="right", va="bottom", fontsize="small")
        ax.margins(y=0.12)
        ax.set_xticks(range(len(rows)), list(rows), rotation=30, ha="right")
        ax.set_title(
            f"{task}: {name.replace('_', ' ')}\n{'more' if more else 'less'} is better", fontsize="medium"
        )
    figures.save(figure, path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    every = [*SETTINGS, PEER]
    parser.add_argument("--tasks", nargs="+", choices=list(HEADLINE), default=list(HEADLINE))
    parser.add_argument("--settings", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="optimiser steps of each cell, for a trial")
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "ablation.json")
    options = parser.parse_args()
    results: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/ablation.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "processor": f"{platform.machine()}, {os.cpu_count()} cores",
            "threads": torch.get_num_threads(),
        },
        "versions": {"geoattn": ga.__version__}
        | {name: version(name) for name in ("torch", "torch-harmonics", "lightning")},
        "seeds": options.seeds,
    }
    for task in options.tasks:
        cells: dict[str, list[dict[str, Any]]] = {setting: [] for setting in options.settings}
        for seed in options.seeds:  # seeds outermost: a run that is stopped has whole rows
            for setting in options.settings:
                cells[setting].append(cell(task, setting, seed, options))
        rows = {setting: summary(found) for setting, found in cells.items()}
        results[task] = {"rows": rows, "cells": cells, "trivial": trivial_rows(task)}
        write_json(results, options.output)
    for task in options.tasks:
        show(task, results[task]["rows"], results[task]["trivial"])
    picture = options.output.with_suffix(".png")
    draw({task: results[task] for task in options.tasks}, picture)
    print(f"\nEverything is in {options.output}, and drawn in {picture}")


if __name__ == "__main__":
    main()
