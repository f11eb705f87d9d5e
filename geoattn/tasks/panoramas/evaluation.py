"""The test of a model of panoramas: its scores beside trivial ones, tilted cameras, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.config import PanoramaConfig
from geoattn.tasks.panoramas.learning import PanoramaTask
from geoattn.tasks.panoramas.pictures import sphere_picture
from geoattn.tasks.panoramas.robustness import Predict, rotation_robustness, score
from geoattn.tasks.panoramas.samples import Sample
from geoattn.training import FitConfig, write_json


@dataclasses.dataclass(frozen=True)
class Kind:
    """What segmentation and depth differ in."""

    name: str
    #: channels of the network's output
    channels: int
    #: the module to train, from a network, a grid and a configuration of the run
    module: Callable[[nn.Module, SphericalGrid, FitConfig], PanoramaTask]
    #: an empty score
    scores: Callable[[SphericalGrid], Metric]
    #: predictors that do not look, by name, from the training samples
    trivial: Callable[[SphericalGrid, Dataset[Sample]], dict[str, nn.Module]]
    #: panoramas side by side
    picture: Callable[[Path | None, SphericalGrid, Tensor, Tensor, Tensor], Any]
    #: a prediction ``[*grid.shape]`` as :func:`geoattn.tasks.maps.draw` takes it
    shown: Callable[[Tensor], Any]
    #: the score to draw against tilt
    headline: str


def evaluate(
    kind: Kind,
    predict: Predict,
    data: PanoramaConfig,
    folder: Path,
    *,
    angles: Sequence[float] = (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0),
    batch_size: int = 8,
) -> dict[str, Any]:
    """Score a model on the test split, beside the trivial predictors, upright and tilted.

    The folder receives ``scores.json``, ``panoramas.png``, ``sphere.png`` and ``robustness.png``.

    Parameters
    ----------
    kind
        :data:`geoattn.tasks.segmentation.SEGMENTATION` or :data:`geoattn.tasks.depth.DEPTH`.
    predict
        From ``rgb [B, 3, *grid.shape]`` to what the kind's scores take: ``PanoramaTask.predict``.
    data
        What the model was trained on.
    angles
        Degrees of pitch and roll at which the same scenes are scored; empty for none.

    Returns
    -------
    dict
        What ``scores.json`` holds: ``"test"``, the scores of each predictor by name; ``"robustness"``,
        their scores against ``"angle"``.
    """
    grid, test = data.grid, data.split("test")
    truth = kind.module.truth  # type: ignore[attr-defined]
    predictors: dict[str, Predict] = {**kind.trivial(grid, data.split("train")), "model": predict}
    batches = DataLoader(test, batch_size=batch_size)
    scored = score(predictors, batches, truth, lambda: kind.scores(grid))
    content: dict[str, Any] = {"task": kind.name, "data": dataclasses.asdict(data), "test": scored}
    if angles:
        content["robustness"] = rotation_robustness(
            predictors,
            lambda pitch, roll: data.split("test", pitch=pitch, roll=roll),
            angles,
            truth,
            lambda: kind.scores(grid),
            batch_size,
        )
    write_json(content, folder / "scores.json")

    batch = next(iter(DataLoader(test, batch_size=4)))
    with torch.no_grad():
        predicted = predict(batch["rgb"])
    kind.picture(folder / "panoramas.png", grid, batch["rgb"], batch[truth], predicted)
    sphere_picture(
        folder / "sphere.png", grid, kind.shown(predicted[0]), f"{kind.name} of {batch['name'][0]}"
    )
    if angles:
        _draw_robustness(folder / "robustness.png", content["robustness"], kind.headline)
    return content


def _draw_robustness(path: Path, curves: dict[str, dict[str, list[float]]], headline: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot(curve["angle"], curve[headline], marker="o", label=name)
    axes.set(
        xlabel="pitch or roll of the camera (degrees)", ylabel=headline.replace("_", " "), ylim=(0, None)
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
