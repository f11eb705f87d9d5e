"""A grid, and how it is recognised in files."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np

import geoattn as ga


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Spiral(ga.grids.PointSet, kind="spiral"):
    """Points on a golden spiral from pole to pole, one in each of ``count`` zones of equal area."""

    count: int

    def _check(self) -> None:
        if self.count < 2:
            raise ValueError(f"a spiral needs at least 2 points, got {self.count}")

    def _shape(self) -> tuple[int, ...]:
        return (self.count,)

    @cached_property
    def lat(self) -> np.ndarray:
        return np.degrees(np.arcsin(1.0 - (2.0 * np.arange(self.count) + 1.0) / self.count))

    @cached_property
    def lon(self) -> np.ndarray:
        return np.arange(self.count) * 180.0 * (3.0 - 5.0**0.5) % 360.0

    @cached_property
    def weights(self) -> np.ndarray:
        return np.full(self.count, 4.0 * np.pi / self.count)

    def __repr__(self) -> str:
        return f"spiral of {self.count} points"


def recognise(ds: Any, *, tolerance: float, use_areas: bool) -> ga.grids.Recognition | None:
    """A spiral says so in its latitudes' attribute ``arrangement``."""
    if "lat" not in ds.coords or ds.coords["lat"].attrs.get("arrangement") != "spiral":
        return None
    lat = ds.coords["lat"]
    grid = Spiral(lat.size)
    deviation = float(np.abs(lat.values - grid.lat).max())
    accepted = tolerance * 180.0 / lat.size
    if deviation > accepted:
        raise ValueError(f"'lat' says that it is a spiral, and is off by up to {deviation:.2g}°")
    return ga.grids.Recognition(
        grid, "the arrangement of 'lat'", lat.dims, "equal areas", deviation, accepted
    )
