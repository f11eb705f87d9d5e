"""Dilated Neighborhood Attention (Hassani & Shi, 2209.15001): local and dilated windows in turn.

Two models segment rendered rooms: all four blocks look at windows of 5×5 tokens, or every other one at as
many tokens that lie 3 rows and 6 columns apart. Parameters, keys of a query, data and steps are the same. A
training takes a minute or two; it is a row of the results that is trained once, and goes on where it was
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from systems_measure import FOLDER, Options, Results, Row, clock, predicted
from systems_patterns import as_matrix
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import geoattn as ga
from geoattn.neighborhoods import Neighborhood
from geoattn.tasks.panoramas import Sample
from geoattn.tasks.panoramas import experiment as panoramas
from geoattn.tasks.panoramas.robustness import score
from geoattn.tasks.segmentation.experiment import EXPERIMENT
from geoattn.training import FitConfig

#: the size of patches, the window in tokens, and how far apart the dilated one takes them
PATCH, WINDOW, DILATION = 2, 5, (3, 6)
DEPTH = 4
MODELS = ("NA", "DiNA")
PICTURE = FOLDER / "systems_receptive_field.png"


class Rooms(panoramas.DataSettings):
    """Rendered once for all models."""

    def part(self, split: str, **attitude: Any) -> Dataset[Sample]:
        return rendered(self, split)


@cache
def rendered(rooms: Rooms, split: str) -> Dataset[Sample]:
    return panoramas.DataSettings.part(rooms, split)


ROOMS = Rooms(nlat=32, nlon=64, training=2000, validation=32, test=200, supersampling=2)
FIT = FitConfig(steps=1500, validate_every=250, learning_rate=3e-3)
SMALL_ROOMS = Rooms(nlat=32, nlon=64, training=8, validation=2, test=2)
SMALL_FIT = FitConfig(steps=2, validate_every=2)


def hoods(rooms: Rooms) -> dict[str, tuple[Neighborhood, Neighborhood]]:
    """The neighborhoods that the blocks of each model take in turn."""
    tokens = ga.nn.patches(rooms.grid, PATCH).grid
    near = ga.window(tokens, WINDOW)
    return {"NA": (near, near), "DiNA": (near, ga.window(tokens, WINDOW, dilation=DILATION))}


def model(name: str, rooms: Rooms, seed: int) -> ga.models.Transformer:
    lightning.seed_everything(seed, verbose=False)
    sizes = {"dim": 48, "depth": DEPTH, "num_heads": 4, "patch": PATCH}
    kept = hoods(rooms)[name]
    config = ga.models.TransformerConfig(
        rooms.grid, kept, 3, EXPERIMENT.channels, key_weights=None, residual=False, **sizes
    )
    return config.build()


def measure(results: Results, options: Options, folder: Path, seeds: Sequence[int]) -> None:
    rooms, fit = (SMALL_ROOMS, SMALL_FIT) if options.small else (ROOMS, FIT)
    for seed in seeds[: 1 if options.small else None]:
        for name in MODELS:
            cell = partial(trained, name, rooms, fit, seed, folder / f"{name}-{seed}")
            results.row("dina", f"{name}, seed {seed}", cell, timed=False, lasting=True)
    results.row("dina", "receptive field", lambda: reach(rooms), timed=False)
    results.row("dina", "a step", lambda: steps(rooms, options))


def trained(name: str, rooms: Rooms, fit: FitConfig, seed: int, folder: Path) -> Row:
    network = model(name, rooms, seed)
    settings = panoramas.Settings(rooms, fit=FitConfig(**{**vars(fit), "seed": seed}))
    module = panoramas.train(EXPERIMENT, settings, folder, network)
    test = DataLoader(rooms.part("test"), batch_size=8)
    found = score({"model": module.predict}, test, EXPERIMENT.truth, partial(EXPERIMENT.scores, rooms.grid))
    rounds = json.loads((folder / "metrics.json").read_text())["rounds"]
    return {
        "model": name,
        "seed": seed,
        "steps": fit.steps,
        "parameters": sum(p.numel() for p in network.parameters()),
        "scores": found["model"],
        "validation": [[row["step"], float(row["val_loss"])] for row in rounds],
    }


def steps(rooms: Rooms, options: Options) -> Row:
    """Seconds of a forward and a backward pass of eight panoramas, and what plans predict."""
    batch = next(iter(DataLoader(rooms.part("test"), batch_size=8)))
    networks = {name: model(name, rooms, 0) for name in MODELS}
    best = {name: {"forward": float("inf"), "backward": float("inf")} for name in MODELS}
    for turn in range(3 * options.rounds + 1):
        for name, network in networks.items():
            outs: list[torch.Tensor] = []
            forward = clock(lambda network=network, outs=outs: outs.append(network(batch["rgb"])))
            loss = F.cross_entropy(outs[0], batch["label"], ignore_index=255)
            backward = clock(loss.backward)
            if turn:  # the first compiles
                best[name] = {
                    "forward": min(best[name]["forward"], forward),
                    "backward": min(best[name]["backward"], backward),
                }
    local, far = hoods(rooms)["DiNA"]
    return {"seconds": best, "predicted": {"local": predicted(local), "dilated": predicted(far)}}


def layers(rooms: Rooms, name: str) -> np.ndarray[Any, Any]:
    """The block after which a query has heard of a token, ``[N, N]``: 0 of itself, ``DEPTH + 1`` never."""
    matrices = [as_matrix(hood).astype(bool) for hood in hoods(rooms)[name]]
    n = matrices[0].shape[0]
    heard, first = np.eye(n, dtype=bool), np.full((n, n), DEPTH + 1)
    first[heard] = 0
    for block in range(DEPTH):
        heard = (matrices[block % 2].astype(np.int32) @ heard.astype(np.int32)) > 0
        first[heard & (first > DEPTH)] = block + 1
    return first


def reach(rooms: Rooms) -> Row:
    """Mean share of all tokens that a query has heard of after each block."""
    shares = {name: [float((layers(rooms, name) <= b).mean()) for b in range(DEPTH + 1)] for name in MODELS}
    return {"share_of_tokens": shares}


def draw(rows: dict[str, Any]) -> None:
    """After how many blocks the token in the middle has heard of the others."""
    from geoattn.plot import figures

    tokens = hoods(ROOMS)["NA"][0].query_grid
    figure = figures.new(9, 2.7)
    for axes, name in zip(figure.subplots(1, 2), MODELS, strict=True):
        middle = np.ravel_multi_index([n // 2 for n in tokens.shape], tokens.shape)
        first = layers(ROOMS, name)[middle].reshape(tokens.shape)
        image = axes.imshow(first, cmap="viridis_r", vmin=0, vmax=DEPTH + 1)
        axes.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(image, ax=figure.axes, ticks=range(DEPTH + 2))
    bar.set_ticklabels([*map(str, range(DEPTH + 1)), "never"])
    bar.set_label("blocks until heard of")
    figures.save(figure, PICTURE, dpi=80)
