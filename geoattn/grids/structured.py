"""Structured grids whose points a list could be."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial import cKDTree

from geoattn._shipped import shipped
from geoattn.grids.base import SphericalGrid
from geoattn.grids.cube import cubed_sphere
from geoattn.grids.healpix import healpix
from geoattn.grids.icosahedral import icosahedral
from geoattn.grids.reduced import reduced_gaussian
from geoattn.grids.sphere import Floats, Ints, unit_vectors


def candidates(size: int) -> Iterator[SphericalGrid]:
    """Structured grids of that size."""
    number = round((np.sqrt(size + 81.0) - 9.0) / 2.0)  # an octahedral grid O<k> has 4 k (k + 9) points
    if number > 0 and 4 * number * (number + 9) == size:
        yield reduced_gaussian(f"O{number}")
    for table in (shipped("grids") / "tables").glob("N*.json"):
        if (grid := reduced_gaussian(table.stem)).size == size:
            yield grid
    nside = round(np.sqrt(size / 12.0))
    if nside > 0 and 12 * nside**2 == size:
        yield healpix(nside, "ring")
        if nside & (nside - 1) == 0:
            yield healpix(nside, "nested")
    level = round(np.log(max(size - 2, 1) / 10.0) / np.log(4.0))
    if level >= 0 and 10 * 4**level + 2 == size:
        yield icosahedral(level)
    side = round(np.sqrt(size / 6.0))
    if side > 0 and 6 * side**2 == size:
        yield cubed_sphere(side)
        yield cubed_sphere(side, "equal-edge")
        yield cubed_sphere(side, "equal-edge", rotation=0.0)


def distance(grid: SphericalGrid, lat: Floats, lon: Floats) -> float:
    """The largest distance between the grid's points and these, in degrees, by its two components."""
    north = float(np.abs(grid.lat - lat).max())
    if north > 10.0:  # not this grid: spare the rest
        return north
    east = np.abs((grid.lon - lon + 180.0) % 360.0 - 180.0) * np.cos(np.radians(lat))
    return max(north, float(east.max()))


def permutation(grid: SphericalGrid, lat: Floats, lon: Floats, accepted: float) -> Ints | None:
    """The grid's token at each of these points, if they are its points in another order."""
    if np.abs(np.sort(lat) - np.sort(grid.lat, axis=None)).max() > accepted:
        return None
    chords, tokens = cKDTree(grid.xyz.reshape(-1, 3)).query(unit_vectors(lat, lon))
    if np.degrees(chords.max()) > accepted or len(np.unique(tokens)) < len(tokens):
        return None
    return np.asarray(tokens, dtype=np.int64)
