"""The data: smooth random fields, and the same turned about a tilted axis. Put your own here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import geoattn as ga

GRID = ga.grids.gaussian(16, 32)
#: of the waves in a field
DEGREE = 4


def turned(grid: ga.grids.Grid, angle: float = 20.0, tilt: float = 30.0) -> ga.grids.Grid:
    """Where the points of a grid were before a turn, degrees, about an axis so far from the pole."""
    a, b = np.radians(angle), np.radians(tilt)
    spin = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    lean = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    x, y, z = (grid.xyz.reshape(-1, 3) @ (lean @ spin @ lean.T)).T
    lat, lon = np.degrees(np.arcsin(np.clip(z, -1, 1))), np.degrees(np.arctan2(y, x))
    return ga.grids.points(lat, lon, areas=grid.weights.ravel())


class Turns(Dataset):
    """Pairs ``(field, the same turned)``, each ``[1, *GRID.shape]``, that follow from a seed."""

    def __init__(self, count: int, seed: int) -> None:
        here, before = (torch.tensor(ga.nn.position_features(g, DEGREE)) for g in (GRID, turned(GRID)))
        waves = torch.randn(count, here.shape[-1], generator=torch.Generator().manual_seed(seed))
        self.fields = (waves.double() @ here.flatten(0, -2).T).reshape(count, 1, *GRID.shape).float()
        self.turned = (waves.double() @ before.T).reshape(count, 1, *GRID.shape).float()

    def __len__(self) -> int:
        return len(self.fields)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.fields[index], self.turned[index]
