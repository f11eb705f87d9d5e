"""What a data set's grid says about its fields: weights, area means, a map. All work with ``.pipe``."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray

from geoattn.grids import Recognition, RegionError, recognise
from geoattn.plot import lat_lon_map
from geoattn.xarray.schema.fit import fit_mask, fit_variables
from geoattn.xarray.schema.schema import all_on_grid
from geoattn.xarray.schema.times import stamp
from geoattn.xarray.schema.values import check_numbers, refuse_labels
from geoattn.xarray.scores.lead_times import in_hours

#: what fields are weighed by → the grid's attribute, and its name in a file
_WEIGHTS = {"quadrature": ("weights", "quadrature weight"), "area": ("cell_areas", "area of the cell")}


def weights(ds: Any, *, by: str = "quadrature", **recognition: Any) -> xarray.DataArray:
    """The weights of a data set's grid, in steradians, over its own dimensions.

    Parameters
    ----------
    ds
        xarray Dataset or DataArray.
    by
        ``"quadrature"``: the grid's weights, ``grid.weights``; ``"area"``: its cells, ``grid.cell_areas``.
    **recognition
        Options of :func:`geoattn.grids.recognise`.

    Raises
    ------
    ValueError
        If the grid is not recognised, or there are no such weights.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> round(float(ga.xarray.weights(ds).sum()) / np.pi, 12)
    4.0
    """
    _check_by(by)
    return _weights(ds, recognise(ds, **recognition), by)


def mean(ds: Any, *, mask: Any = None, by: str = "quadrature", **recognition: Any) -> Any:
    """The mean over the globe of every variable on the grid.

    By default it is weighed by the grid's quadrature, which integrates smooth fields most exactly. What
    conservative regridding keeps is the mean by the areas of the cells, ``by="area"``.

    Parameters
    ----------
    ds
        xarray Dataset or DataArray. Of a Dataset, variables that do not lie on the grid are left out.
    mask
        True at the points that count, a DataArray of bool, or a Dataset with one for each variable, at the
        points of the field within the rounding of files. Without it every point counts. Where values are
        missing, ``mask=ds.notnull()`` takes the mean of what is there.
    by
        What points are weighed by, as in :func:`weights`.
    **recognition
        Options of :func:`geoattn.grids.recognise`.

    Raises
    ------
    ValueError
        If the grid is a region, there are no such weights, the mask is none, or lies elsewhere, if a point
        that counts has no value, if no point counts, or if a variable on the grid holds no real numbers, or
        none lies there.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> abs(float(ga.xarray.mean(ds).t)) < 1e-12
    True
    """
    _check_by(by)
    report = recognise(ds, **recognition)
    if not report.grid.is_global:
        raise RegionError(
            f"the mean over the globe is asked for on a {report.grid!r}; that of the region itself is "
            f"ds.weighted(ga.xarray.weights(ds)).mean({report.dims})"
        )
    area = _weights(ds, report, by)
    if isinstance(ds, xarray.DataArray):
        return _mean(ds, area, mask, "field", "mask", "field")
    names = all_on_grid(ds, report.dims, "ds")
    several = isinstance(mask, xarray.Dataset)
    if several:
        fit_variables(mask, dict.fromkeys(names, ""), "mask", "data set")
    means = {
        name: _mean(
            ds[name],
            area,
            mask[name] if several else mask,
            f"ds[{name!r}]",
            f"mask[{name!r}]" if several else "mask",
            "ds",
        )
        for name in names
    }
    return xarray.Dataset(means, attrs=ds.attrs)


def _check_by(by: str) -> None:
    if by not in _WEIGHTS:
        raise ValueError(f"by must be one of {sorted(_WEIGHTS)}, got {by!r}")


def _mean(
    array: xarray.DataArray, area: xarray.DataArray, mask: Any, call: str, mask_call: str, whole: str
) -> Any:
    """The mean of one variable, which is called ``call`` where it was given, as part of ``whole``."""
    check_numbers(array, call)
    refuse_labels(array, call, f"Take the share of each: ga.xarray.mean({call} == …)")
    dims = [str(dim) for dim in area.dims]
    fitting = None if mask is None else fit_mask(mask, array, dims, mask_call)
    return area_mean(array, area, fitting, str(array.name), (call, whole, "" if mask is None else mask_call))


def plot(array: Any, ax: Any = None, **options: Any) -> Any:
    """A map of one field; returns the matplotlib axes.

    Its title says what the field is and where it was taken along other dimensions: level, time, lead time.
    Lat-lon grids are drawn cell by cell, others by the nearest point on a raster of 1°.

    Parameters
    ----------
    array
        xarray DataArray whose only dimensions are the grid's.
    ax
        Matplotlib axes; a new figure if None.
    **options
        Those of ``matplotlib.axes.Axes.pcolormesh``.

    Raises
    ------
    TypeError
        If it is given a Dataset.
    ValueError
        If there are other dimensions.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> axes = ga.xarray.plot(ds.t)
    """
    if isinstance(array, xarray.Dataset):
        raise TypeError("one variable is plotted, ds['…'], got a Dataset")
    if not isinstance(array, xarray.DataArray):
        raise TypeError(f"an xarray DataArray is plotted, got {type(array).__name__}")
    report = recognise(array)
    if set(map(str, array.dims)) != set(report.dims):
        others = [dim for dim in array.dims if dim not in report.dims]
        raise ValueError(
            f"a map shows one field, but {array.name!r} has the dimensions {others} beside the grid's "
            f"{report.dims}: select from them, array.isel({', '.join(f'{d}=0' for d in others)})"
        )
    values = array.transpose(*report.dims).values.reshape(report.grid.shape)
    label = str(array.attrs.get("long_name", array.name or ""))
    units = f" ({array.attrs['units']})" if array.attrs.get("units") else ""
    axes = lat_lon_map(ax, report.grid, values, label + units, **options)
    axes.set_title(", ".join(filter(None, (label, *_taken(array)))), fontsize=10)
    return axes


def _taken(array: xarray.DataArray) -> list[str]:
    """Where a field was taken along dimensions that it has no more, in words."""
    said = []
    for name, place in array.coords.items():
        value = place.values
        if value.ndim or value.dtype.kind not in "iufmM" or "grid_mapping_name" in place.attrs:
            continue
        if (hours := in_hours(place, value)) is not None:
            said.append(f"{name} {hours}")
        else:
            # seconds only where there are any
            shown = stamp(value).removesuffix(":00") if value.dtype.kind == "M" else f"{value:g}"
            said.append(f"{name} {shown} {place.attrs.get('units', '')}".strip())
    return said


def area_mean(
    values: xarray.DataArray,
    area: xarray.DataArray,
    mask: Any,
    name: str,
    calls: tuple[str, str, str] | None = None,
) -> xarray.DataArray:
    """The mean of ``values`` over the dimensions of ``area``, weighted by it, in float64.

    Parameters
    ----------
    calls
        What the values, the whole that they are part of, and the mask, if there is one, are called where
        they were given.

    Raises
    ------
    ValueError
        If a point that counts has no value, or no point counts.
    """
    if mask is None:
        result = xarray.dot(values, area / area.sum(), dim=area.dims).astype(np.float64)
    else:
        counted = xarray.dot(mask.astype(np.float64), area, dim=area.dims)
        if not bool((counted > 0).all()):
            raise ValueError(f"the mask of {name!r} leaves no point to average over{_first(~(counted > 0))}")
        result = xarray.dot(values.where(mask, 0.0), area, dim=area.dims) / counted
    result = result.compute()
    if not bool(np.isfinite(result).all()):
        there = "…" if calls is None else _there(values, *calls)
        raise ValueError(
            f"{name!r} has values that are missing or infinite{_first(~np.isfinite(result))}. They are never "
            f"skipped in silence: say which points count, mask={there}"
        )
    averaged: xarray.DataArray = result.assign_attrs(values.attrs)
    return averaged


def _there(values: xarray.DataArray, call: str, whole: str, mask_call: str) -> str:
    """The mask of what is there, as it is written."""
    infinite = bool(np.isinf(values).any())
    there = f"np.isfinite({call})" if infinite else f"{call if mask_call else whole}.notnull()"
    return f"{mask_call} & {there}" if mask_call else there


def _weights(ds: Any, report: Recognition, by: str = "quadrature") -> xarray.DataArray:
    sizes = [int(ds.sizes[dim]) for dim in report.dims]
    attribute, long_name = _WEIGHTS[by]
    values = np.array(getattr(report.grid, attribute)).reshape(sizes)
    coords = {n: c for n, c in ds.coords.items() if c.dims and set(c.dims) <= set(report.dims)}
    attrs = {"long_name": long_name, "units": "sr", "grid": repr(report.grid)}
    return xarray.DataArray(values, coords, report.dims, "weights", attrs)


def _first(wrong: xarray.DataArray) -> str:
    """Where a condition holds first, in words."""
    if not wrong.dims:
        return ""
    index = np.argwhere(wrong.values)[0]
    where = ", ".join(
        f"{dim} {stamp(wrong[dim].values[i]) if dim in wrong.coords else i}"
        for dim, i in zip(wrong.dims, index, strict=True)
    )
    others = int(wrong.sum()) - 1
    return f" at {where}" + (f", and in {others} more place{'s' if others > 1 else ''}" if others else "")
