"""``ds.geoattn``: sugar over plain functions. :func:`geoattn._accessor.register` makes it known to xarray."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import xarray

from geoattn.grids import Recognition, SphericalGrid, recognise
from geoattn.xarray import fields
from geoattn.xarray.regrid import regrid


class Accessor:
    """What the grid of a Dataset or DataArray gives: ``ds.geoattn.grid``, ``ds.geoattn.mean()``."""

    def __init__(self, data: Any) -> None:
        self._data = data

    @cached_property
    def recognition(self) -> Recognition:
        """How the grid was found: :func:`geoattn.grids.recognise`."""
        return recognise(self._data)

    @property
    def grid(self) -> SphericalGrid:
        """The grid: :func:`geoattn.grids.from_xarray`."""
        return self.recognition.grid

    @property
    def weights(self) -> xarray.DataArray:
        """Its quadrature weights: :func:`geoattn.xarray.weights`."""
        return fields.weights(self._data)

    def mean(self, **options: Any) -> Any:
        """The mean over the globe: :func:`geoattn.xarray.mean`."""
        return fields.mean(self._data, **options)

    def regrid(self, target: Any, **options: Any) -> Any:
        """On another grid: :func:`geoattn.xarray.regrid`."""
        return regrid(self._data, target, **options)

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """A map: :func:`geoattn.xarray.plot`."""
        return fields.plot(self._data, ax, **options)

    def __repr__(self) -> str:
        return repr(self.recognition)
