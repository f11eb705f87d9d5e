"""Depth maps side by side: input, truth, prediction, error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.classes import NO_DEPTH
from geoattn.tasks.panoramas.pictures import Column, table


def depth_picture(
    path: Path | None,
    grid: SphericalGrid,
    rgb: Tensor,
    truth: Tensor,
    predicted: Tensor,
    projection: str = "equirectangular",
) -> Any:
    """One row per panorama: what was seen, its depth, the one predicted, and their difference.

    Parameters
    ----------
    path
        Where to write the picture; None to write none.
    grid
        Where the samples live.
    rgb
        ``[B, 3, *grid.shape]`` in [0, 1].
    truth, predicted
        Metres ``[B, *grid.shape]``; pixels without a true depth stay white.

    Returns
    -------
    The matplotlib figure.
    """
    true = torch.where(truth > NO_DEPTH, truth.double(), torch.nan).cpu()
    guess = predicted.detach().double().cpu()
    known = true[~true.isnan()]
    low, high = (float(known.quantile(q)) for q in (0.005, 0.995))
    error = guess - true
    largest = float(error[~error.isnan()].abs().quantile(0.99))
    metres = {"cmap": "viridis", "vmin": low, "vmax": high}
    columns = [
        Column("input", rgb.movedim(1, -1).double().cpu().numpy()),
        Column("truth", true.numpy(), metres, "depth along the ray (m)"),
        Column("prediction", guess.numpy(), metres, "depth along the ray (m)"),
        Column("error", error.numpy(), {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}, "error (m)"),
    ]
    return table(path, grid, columns, projection)
