"""The ground under the fluid: a cone, or what a file says of the land of a planet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import LatLonGrid, equiangular
from geoattn.tasks.shallow_water.cases import cone

#: the mountain of Williamson's case 5
MOUNTAIN = "mountain"


def ground_height(grid: LatLonGrid, source: str, scale: float = 1.0) -> Tensor:
    """Heights of the ground in metres, float64 ``[*grid.shape]``.

    Parameters
    ----------
    grid
        Where they are wanted.
    source
        "mountain" for the cone of Williamson's case 5, or a file of numpy's, ``.npy``, of heights or of
        shares of land ``[rows, columns]`` in boxes of equal angles from 90°N and 180°W, which are averaged
        over the cells of the grid.
    scale
        Metres for one unit of the file: 1 for heights, 1000 for land a kilometre high.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has no two axes, or a value that is not finite.
    """
    if source == MOUNTAIN:
        return scale * cone(grid)
    path = Path(source)
    if path.suffix != ".npy" or not path.exists():
        raise FileNotFoundError(
            f"there is no ground {source!r}: it is {MOUNTAIN!r}, or a .npy file that is there, such as "
            "make data keeps of the relief and of the land"
        )
    boxes = np.load(path)
    if boxes.ndim != 2 or not np.isfinite(boxes).all():
        raise ValueError(
            f"{path} must hold finite numbers [rows, columns] from 90°N and 180°W, got {boxes.dtype} "
            f"{list(boxes.shape)} with {int((~np.isfinite(boxes)).sum())} that are not finite"
        )
    from geoattn.xarray import Regridder

    rows, columns = boxes.shape
    given = equiangular(rows, columns, poles=False, lon_start=-180 + 180 / columns)
    return scale * torch.from_numpy(Regridder(given, grid, "conservative")(boxes.astype(np.float64)))
