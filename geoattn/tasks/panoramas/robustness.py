"""What becomes of scores when the camera is tilted: the same scenes, seen at pitch and roll."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geoattn.tasks.panoramas.samples import Sample


class Scores(Protocol):
    """What :class:`SegmentationScores` and :class:`DepthScores` have in common."""

    def update(self, predicted: Tensor, truth: Tensor) -> None: ...

    def compute(self) -> dict[str, Tensor]: ...


Predict = Callable[[Tensor], Tensor]


@torch.no_grad()
def score(
    predictors: Mapping[str, Predict],
    batches: Iterable[Sample],
    truth: str,
    scores: Callable[[], Scores],
) -> dict[str, dict[str, float]]:
    """Scores of several predictors on the same samples.

    Parameters
    ----------
    predictors
        By name, from ``rgb [B, 3, *grid.shape]`` to what ``scores`` take.
    batches
        Collated samples; gone through once.
    truth
        ``"label"`` or ``"depth"``.
    scores
        Makes an empty score.

    Returns
    -------
    dict
        For each predictor, its scores by name.
    """
    kept = {name: scores() for name in predictors}
    for batch in batches:
        for name, predict in predictors.items():
            kept[name].update(predict(batch["rgb"]), batch[truth])  # type: ignore[literal-required]
    return {name: {k: float(v) for k, v in found.compute().items()} for name, found in kept.items()}


def rotation_robustness(
    predictors: Mapping[str, Predict],
    scenes: Callable[[float, float], Dataset[Sample]],
    angles: Sequence[float],
    truth: str,
    scores: Callable[[], Scores],
    batch_size: int = 8,
) -> dict[str, dict[str, list[float]]]:
    """Scores against the angle at which the camera is held.

    Parameters
    ----------
    predictors, truth, scores
        As for :func:`score`.
    scenes
        The data set at (pitch, roll) in degrees; the scenes must be the same ones at every attitude:
        ``lambda pitch, roll: RenderedRooms(grid, 50, "test", pitch=pitch, roll=roll)``.
    angles
        Degrees. At each, scenes are seen at pitch = ±angle and at roll = ±angle, and scored together.

    Returns
    -------
    dict
        For each predictor, ``"angle"`` and each score by name, as lists over the angles.
    """
    curves: dict[str, dict[str, list[float]]] = {name: {"angle": list(angles)} for name in predictors}
    for angle in angles:
        attitudes = {(a, 0.0) for a in (angle, -angle)} | {(0.0, a) for a in (angle, -angle)}
        batches = (
            batch
            for pitch, roll in sorted(attitudes)
            for batch in DataLoader(scenes(pitch, roll), batch_size=batch_size)
        )
        for name, found in score(predictors, batches, truth, scores).items():
            for key, value in found.items():
                curves[name].setdefault(key, []).append(value)
    return curves
