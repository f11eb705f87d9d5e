"""What can be predicted without looking: the mean depth of each row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from geoattn.grids import SphericalGrid
from geoattn.tasks.panoramas.areas import area_of, rows_of
from geoattn.tasks.panoramas.classes import NO_DEPTH


class RowMean(nn.Module):
    """The mean depth of a training set in each row of equal latitude, whatever the picture.

    A row without a depth takes the mean over all rows.

    Parameters
    ----------
    grid
        Where the depths live.
    depths
        Depth maps ``[*grid.shape]`` or batches of them ``[B, *grid.shape]``, in metres.

    Raises
    ------
    ValueError
        If no depth was given.
    """

    def __init__(self, grid: SphericalGrid, depths: Iterable[Tensor]) -> None:
        super().__init__()
        area, rows = area_of(grid), torch.from_numpy(rows_of(grid))
        sums = torch.zeros(2, int(rows.max()) + 1, dtype=torch.float64)
        for depth in depths:
            known = depth > NO_DEPTH
            row, weight = rows.expand_as(depth)[known], area.expand_as(depth)[known]
            sums[0] += torch.bincount(row, weight * depth[known], sums.shape[1])
            sums[1] += torch.bincount(row, weight, sums.shape[1])
        if float(sums[1].sum()) == 0.0:
            raise ValueError("no depth was given: a mean needs some")
        everywhere = sums[0].sum() / sums[1].sum()
        mean = torch.where(sums[1] > 0, sums[0] / sums[1], everywhere)
        self.register_buffer("depth", mean[rows].float())

    def forward(self, rgb: Tensor) -> Tensor:
        """Metres ``[B, *grid.shape]`` for ``rgb [B, 3, *grid.shape]``."""
        depth = self.get_buffer("depth")
        return depth.expand(len(rgb), *depth.shape)
