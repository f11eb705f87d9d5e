"""Segmentations side by side: input, truth, prediction, error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.classes import COLORS, UNLABELLED
from geoattn.tasks.panoramas.pictures import Column, table


def colours_of(label: NDArray[np.integer]) -> NDArray[np.float64]:
    """Colours ``[..., 3]`` of classes; grey where there is none."""
    palette = np.full((UNLABELLED + 1, 3), 0.5)
    palette[: len(COLORS)] = np.array(COLORS) / 255
    colours: NDArray[np.float64] = palette[label]
    return colours


def segmentation_picture(
    path: Path | None,
    grid: SphericalGrid,
    rgb: Tensor,
    truth: Tensor,
    predicted: Tensor,
    projection: str = "equirectangular",
) -> Any:
    """One row per panorama: what was seen, its classes, those predicted, and where they differ (red).

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid
        Where the samples live.
    rgb
        ``[B, 3, *grid.shape]`` in [0, 1].
    truth, predicted
        Classes ``[B, *grid.shape]``.

    Returns
    -------
    The matplotlib figure.
    """
    seen = rgb.movedim(1, -1).double().cpu().numpy()
    true, guess = truth.cpu().numpy(), predicted.cpu().numpy()
    error = np.where((guess == true)[..., None], 0.35 + 0.55 * seen.mean(-1, keepdims=True), [0.85, 0.1, 0.1])
    error[true == UNLABELLED] = 0.5
    columns = [
        Column("input", seen),
        Column("truth", colours_of(true)),
        Column("prediction", colours_of(guess)),
        Column("error", error),
    ]
    return table(path, grid, columns, projection, legend=True)
