"""What becomes of scores when the camera is tilted: the same scenes, seen at pitch and roll."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geoattn.tasks.panoramas.samples import Sample


class Scores(Protocol):
    """What :class:`SegmentationScores` and :class:`DepthScores` have in common."""

    def update(self, predicted: Tensor, truth: Tensor) -> None: ...

    def compute(self) -> dict[str, Tensor]: ...


@torch.no_grad()
def score(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Sample],
    truth: str,
    scores: Scores,
) -> dict[str, float]:
    """Scores of predictions from ``rgb`` against the entry ``truth`` of each batch."""
    for batch in batches:
        scores.update(predict(batch["rgb"]), batch[truth])  # type: ignore[literal-required]
    return {name: float(value) for name, value in scores.compute().items()}


def rotation_robustness(
    predict: Callable[[Tensor], Tensor],
    scenes: Callable[[float, float], Dataset[Sample]],
    angles: Sequence[float],
    truth: str,
    scores: Callable[[], Scores],
    batch_size: int = 8,
) -> dict[str, list[float]]:
    """Scores against the angle at which the camera is held.

    Parameters
    ----------
    predict
        From ``rgb [B, 3, *grid.shape]`` to what ``scores`` take.
    scenes
        The data set at (pitch, roll) in degrees; the scenes must be the same ones at every attitude:
        ``lambda pitch, roll: RenderedRooms(grid, 50, "test", pitch=pitch, roll=roll)``.
    angles
        Degrees. At each, scenes are seen at pitch = ±angle and at roll = ±angle, and scored together.
    truth
        ``"label"`` or ``"depth"``.
    scores
        Makes an empty score.

    Returns
    -------
    dict
        ``"angle"``, and each score by name, as lists over the angles.
    """
    curve: dict[str, list[float]] = {"angle": []}
    for angle in angles:
        attitudes = {(a, 0.0) for a in (angle, -angle)} | {(0.0, a) for a in (angle, -angle)}
        batches = (
            batch
            for pitch, roll in sorted(attitudes)
            for batch in DataLoader(scenes(pitch, roll), batch_size=batch_size)
        )
        curve["angle"].append(angle)
        for name, value in score(predict, batches, truth, scores()).items():
            curve.setdefault(name, []).append(value)
    return curve
