"""Regions that scores are taken over: WeatherBench 2's, and boxes of latitudes and longitudes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray

from geoattn.grids import recognise
from geoattn.xarray.fields import weights

#: name → boxes of south, north, west and east in degrees; WeatherBench 2's, scripts/evaluate.py
REGIONS: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "global": ((-90, 90, -180, 180),),
    "tropics": ((-20, 20, -180, 180),),
    "extra-tropics": ((-90, -20, -180, 180), (20, 90, -180, 180)),
    "northern-hemisphere": ((20, 90, -180, 180),),
    "southern-hemisphere": ((-90, -20, -180, 180),),
    "europe": ((35, 75, -12.5, 42.5),),
    "north-america": ((25, 60, -120, -75),),
    "north-atlantic": ((25, 65, -70, -10),),
    "north-pacific": ((25, 60, 145, -130),),
    "east-asia": ((25, 60, 102.5, 150),),
    "ausnz": ((-45, -12.5, 120, 175),),
    "arctic": ((60, 90, -180, 180),),
    "antarctic": ((-90, -60, -180, 180),),
}


def regions(ds: Any, words: Iterable[str], by: str = "quadrature", **recognition: Any) -> dict[str, Any]:
    """Weights of regions over the dimensions of a data set's grid, 0 outside of each.

    Parameters
    ----------
    ds
        xarray Dataset or DataArray.
    words
        Names of :data:`REGIONS`, or boxes as ``name=south:north`` or ``name=south:north,west:east``.
    by
        What points are weighed by: see :func:`geoattn.xarray.weights`.

    Raises
    ------
    ValueError
        If there is no such region, or no point of the grid lies in it.
    """
    found, area = recognise(ds, **recognition), weights(ds, by=by, **recognition)
    lat, lon = (np.asarray(v).reshape(area.shape) for v in (found.grid.lat, found.grid.lon))
    chosen: dict[str, xarray.DataArray] = {}
    for word in words:
        name, boxes = _boxes(word)
        inside = np.zeros(area.shape, bool)
        for south, north, west, east in boxes:
            across = np.ones(area.shape, bool) if east - west >= 360 else _between(lon, west, east)
            inside |= (lat >= south) & (lat <= north) & across
        if not inside.any():
            raise ValueError(f"no point of the {found.grid!r} lies in the region {word!r}")
        chosen[name] = xarray.DataArray(area.values * inside, dims=area.dims)
    return chosen


def _between(lon: Any, west: float, east: float) -> Any:
    """Whether longitudes lie from west to east, the shorter or the longer way around."""
    return (lon - west) % 360.0 <= (east - west) % 360.0


def _boxes(word: str) -> tuple[str, tuple[tuple[float, float, float, float], ...]]:
    name, given, box = word.partition("=")
    if not given:
        if name not in REGIONS:
            known = ", ".join(REGIONS)
            raise ValueError(f"there is no region {name!r}; there are {known}, or name=south:north,west:east")
        return name, REGIONS[name]
    try:
        rows, _, columns = box.partition(",")
        south, north = map(float, rows.split(":"))
        west, east = map(float, columns.split(":")) if columns else (-180.0, 180.0)
    except ValueError:
        raise ValueError(f"{word!r} is no region: write it as name=south:north,west:east") from None
    if not -90 <= south < north <= 90:
        raise ValueError(f"the region {word!r} runs from {south:g} to {north:g}, not from south to north")
    return name, ((south, north, west, east),)
