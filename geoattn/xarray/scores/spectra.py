"""Spectra of fields along parallels: how much of a field's variance is in which waves."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids import LatLonGrid, Recognition, recognise
from geoattn.xarray.scores.jobs import Averages, Score
from geoattn.xarray.scores.pairs import Pair


def zonal_spectrum(ds: Any) -> Any:
    """Mean square of each zonal wavenumber, averaged over the globe.

    Along each parallel the squares of the Fourier coefficients of both signs; parallels are averaged by the
    weights of the grid. Summed over ``wavenumber`` it is the area mean of the field's square (Parseval).
    WeatherBench 2 (Rasp et al. 2024, section 3.3) has the same, times the length of the parallel.

    Parameters
    ----------
    ds
        Dataset or DataArray on a latitude–longitude grid around the globe.

    Returns
    -------
    The same with ``wavenumber`` in place of the horizontal dimensions; units are squared.

    Raises
    ------
    ValueError
        If the grid is another one.
    """
    found = recognise(ds)
    dims, shares = found.dims, _shares(found)
    arrays = {"values": ds} if isinstance(ds, xarray.DataArray) else ds.data_vars
    spectra = {
        name: _of_array(array, dims, shares)
        for name, array in arrays.items()
        if set(dims) <= set(array.dims) and array.dtype.kind == "f"
    }
    if isinstance(ds, xarray.DataArray):
        return spectra["values"].rename(ds.name)
    return xarray.Dataset(spectra, attrs=ds.attrs)


def spectrum_score(of: str, found: Recognition) -> Score:
    """The spectrum of the ``"forecast"`` or the ``"truth"`` of pairs, at each initial and lead time.

    ``found`` is the recognition of the forecast.
    """
    return Score("the square", partial(_spectrum, of, found.dims, _shares(found)), units=None)


def _spectrum(
    of: str, dims: tuple[str, ...], shares: NDArray[Any], pair: Pair, average: Averages
) -> xarray.Dataset:
    ds = getattr(pair, of)
    return xarray.Dataset({name: _of_array(array, dims, shares) for name, array in ds.items()})


def _shares(found: Recognition) -> NDArray[Any]:
    """The share of the globe that each row stands for."""
    if not isinstance(found.grid, LatLonGrid):
        raise ValueError(
            f"waves along parallels need rows around the globe, and the data lie on the {found.grid!r}: "
            "regrid first, ds = ga.xarray.regrid(ds, ga.grids.equiangular(nlat, nlon))"
        )
    shares: NDArray[Any] = np.asarray(found.grid.weights).sum(axis=1)
    return np.asarray(shares / shares.sum())


def _of_array(array: xarray.DataArray, dims: tuple[str, ...], shares: NDArray[Any]) -> xarray.DataArray:
    rows, columns = dims

    def squares(values: NDArray[Any]) -> NDArray[np.float64]:
        waves = np.fft.rfft(values.astype(np.float64), axis=-1, norm="forward")
        power = np.abs(waves) ** 2
        power[..., 1 : (values.shape[-1] + 1) // 2] *= 2.0  # the waves of the other sign
        mean: NDArray[np.float64] = np.einsum("...jm,j->...m", power, shares)
        return mean

    count = array.sizes[columns] // 2 + 1
    spectrum: xarray.DataArray = xarray.apply_ufunc(
        squares,
        array,
        input_core_dims=[[rows, columns]],
        output_core_dims=[["wavenumber"]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": count}, "allow_rechunk": True},
    )
    units = str(array.attrs.get("units", ""))
    attrs = {"units": f"({units})2"} if units else {}
    return spectrum.assign_coords(wavenumber=np.arange(count)).assign_attrs(attrs)
