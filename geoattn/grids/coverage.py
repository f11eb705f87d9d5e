"""Whether a list of points covers the globe, or a region of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from geoattn.grids.healpix import healpix
from geoattn.grids.sphere import Floats


class RegionError(ValueError):
    """Points that cover a region are where a globe is needed.

    Examples
    --------
    >>> lat, lon = (axis.ravel() for axis in np.meshgrid(np.arange(40, 50), np.arange(10)))
    >>> try:
    ...     ga.grids.points(lat, lon)
    ... except ga.grids.RegionError as reason:
    ...     print(str(reason)[:33])
    the 100 points cover a region: no
    """


class Hole(NamedTuple):
    """The widest cap without a point, as far as probes find it. Degrees."""

    radius: float
    lat: float
    lon: float

    def __str__(self) -> str:
        place = f"{abs(self.lat):.0f}°{'SN'[self.lat > 0]}, {self.lon:.0f}°E"
        return f"none lies within {self.radius:.0f}° of {place}"


def hole(xyz: Floats) -> Hole | None:
    """The hole that makes ``xyz [n, 3]`` a region; None where the points are spread over the globe.

    The largest hole among n points thrown at random is about √(log n / π) times their mean spacing
    wide; 3.5 of these are never met by chance. A few points may lie anywhere: they are as likely to share a
    hemisphere as not.
    """
    n = len(xyz)
    sample = np.random.default_rng(0).choice(n, min(n, 100_000), replace=False)  # enough to see a hole
    probes = healpix(16, "ring")
    chords, _ = cKDTree(xyz[sample]).query(probes.xyz)
    radii = np.degrees(2.0 * np.arcsin(np.clip(chords / 2.0, 0.0, 1.0)))
    worst = int(radii.argmax())
    spacing = np.degrees(np.sqrt(4.0 * np.pi / n))
    if radii[worst] <= max(10.0, 3.5 * spacing):
        return None
    return Hole(float(radii[worst]), float(probes.lat[worst]), float(probes.lon[worst]))
