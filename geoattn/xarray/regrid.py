"""Data sets from any grid to any other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn._lru import BoundedCache
from geoattn.grids import SphericalGrid, named, recognise
from geoattn.xarray.regridding.regridder import LEAST, OF_LABELS
from geoattn.xarray.regridding.regridder import Regridder as Regridder
from geoattn.xarray.schema.coordinates import coordinates
from geoattn.xarray.schema.schema import describes_grid, on_grid
from geoattn.xarray.schema.values import check_numbers, refuse_labels

#: options of :func:`regrid` that are not of the recognition of a grid
OPTIONS = ("method", "missing", "normalisation", "least", "weights", "operator")

_operators: BoundedCache[tuple[str, ...], Regridder] = BoundedCache(256 * 2**20)


def regrid(
    ds: Any,
    target: Any,
    *,
    method: str = "auto",
    missing: str = "refuse",
    normalisation: str = "fracarea",
    least: float = LEAST,
    weights: str | os.PathLike[str] | None = None,
    operator: Regridder | None = None,
    **recognition: Any,
) -> Any:
    """A Dataset or DataArray on another grid.

    Other dimensions, variables off the grid, and attributes are kept; the attribute ``regridding`` says
    what was done and how well it conserves. With dask, fields are regridded when they are computed.

    Parameters
    ----------
    ds
        xarray Dataset or DataArray.
    target
        A grid, the name of one in the catalogue, or a Dataset or DataArray that lies on it: then its
        coordinates are taken.
    method, normalisation
        As for :class:`Regridder`.
    missing, least
        As for the call of one.
    weights
        A file that keeps the weights (:meth:`Regridder.kept`): read if it is there, else made and written.
    operator
        One that is there, instead of ``method``: kept from a call before, or from a file,
        ``ga.xarray.Regridder.open(path)``. Its grids must be these.
    **recognition
        Options of :func:`geoattn.grids.recognise` for ``ds``.

    Raises
    ------
    ValueError
        If a grid is not recognised, the operator or the file of weights is between others, or values are
        missing and refused: the variable is named.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> ga.xarray.regrid(ds, ga.grids.healpix(2)).t.shape
    (48,)
    """
    report = recognise(ds, **recognition)
    if isinstance(target, str):
        target = named(target)
    if isinstance(target, SphericalGrid):
        coords = coordinates(target)
        dims = tuple(map(str, coords["latitude"].dims + coords["longitude"].dims))
        dims = tuple(dict.fromkeys(dims))
        grid, whole = target, coords
    else:
        found = recognise(target)
        grid, dims, whole = found.grid, found.dims, target
        coords = target.coords.to_dataset().drop_vars(
            [n for n, c in target.coords.items() if c.dims and not set(c.dims) <= set(dims)]
        )
        if isinstance(target, xarray.Dataset):  # a grid mapping, bounds and areas that are no coordinates
            extra = [n for n, v in target.data_vars.items() if n not in on_grid(target, dims)]
            extra = [n for n in extra if not set(target[n].dims) & (set(target.dims) - set(dims) - {"bnds"})]
            coords = coords.assign({n: target[n] for n in extra})
    if operator is None:
        operator = _operator(report.grid, grid, method, normalisation, weights)
    else:
        _check_between(operator, report.grid, grid)
    sizes = tuple(int(whole.sizes[dim]) for dim in dims)

    def moving(values: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = operator(values, missing, least)
        return result

    def one(array: xarray.DataArray, call: str) -> xarray.DataArray:
        return _regrid_array(array, operator, moving, report.dims, dims, sizes, call)

    note = {"regridding": repr(operator)}
    if isinstance(ds, xarray.DataArray):
        bare = ds.drop_vars([n for n, c in ds.coords.items() if set(c.dims) & set(report.dims)])
        moved = one(bare, "field")
        # of an array alone: bounds and edges have dimensions that it lacks
        fitting = {
            n: c.variable
            for n, c in coords.coords.items()
            if set(c.dims) <= set(moved.dims) and c.attrs.get("cf_role") != "mesh_topology"
        }
        return moved.assign_coords(fitting).assign_attrs(note)
    names = on_grid(ds, report.dims)
    for name, variable in ds.data_vars.items():
        if set(variable.dims) & set(report.dims) and name not in names and not describes_grid(ds, name):
            raise ValueError(
                f"ds[{name!r}], {variable.dtype} over {variable.dims}, is no field of real numbers on the "
                f"grid's {report.dims}: leave it out, ds.drop_vars({name!r})"
            )
    old = [n for n, v in ds.variables.items() if set(v.dims) & set(report.dims) and n not in names]
    old += [n for n, v in ds.variables.items() if "grid_mapping_name" in v.attrs]
    rest = ds.drop_vars([*old, *names])
    bare = ds.drop_vars([n for n in old if n in ds.coords])
    moved = rest.assign({name: one(bare[name], f"ds[{name!r}]") for name in names})
    moved = moved.assign(coords.data_vars)
    order = [n for n in ds.data_vars if n in moved.data_vars]
    chosen = moved[[*order, *coords.data_vars]]  # which leaves out bounds and edges
    return chosen.assign_coords(coords.coords).assign_attrs({**ds.attrs, **note})


def _regrid_array(
    array: xarray.DataArray,
    operator: Regridder,
    moving: Callable[[NDArray[Any]], NDArray[Any]],
    old: tuple[str, ...],
    new: tuple[str, ...],
    sizes: tuple[int, ...],
    call: str,
) -> xarray.DataArray:
    if not set(old) <= set(map(str, array.dims)):
        raise ValueError(f"{call} has the dimensions {array.dims}, without the grid's {old}")
    check_numbers(array, call)
    if operator.method not in OF_LABELS:
        refuse_labels(array, call, "Regrid them by method='nearest' or method='majority'")

    def move(values: NDArray[Any]) -> NDArray[Any]:
        lead = values.shape[: values.ndim - len(old)]
        try:
            moved = moving(values.reshape(*lead, *operator.source.shape))
        except ValueError as reason:
            raise ValueError(f"{call}: {reason}") from None
        result: NDArray[Any] = moved.reshape(*lead, *sizes)
        return result

    moved = xarray.apply_ufunc(
        move,
        array,
        input_core_dims=[old],
        output_core_dims=[new],
        exclude_dims=set(old),
        dask="parallelized",
        output_dtypes=[
            array.dtype if operator.method in OF_LABELS else np.result_type(array.dtype, np.float32)
        ],
        dask_gufunc_kwargs={"output_sizes": dict(zip(new, sizes, strict=True)), "allow_rechunk": True},
        keep_attrs=True,
    )
    place = min(array.dims.index(dim) for dim in old)
    order = [dim for dim in array.dims if dim not in old]
    at = sum(dim not in old for dim in array.dims[:place])
    result: xarray.DataArray = moved.transpose(*order[:at], *new, *order[at:])
    result.attrs.pop("grid_mapping", None)
    return result


def _operator(
    source: SphericalGrid,
    target: SphericalGrid,
    method: str,
    normalisation: str,
    weights: str | os.PathLike[str] | None,
) -> Regridder:
    """One that was made lately for the same, as for the block of a store before this one, or a new one."""
    key: tuple[str, ...] = (source.identity, target.identity, method, normalisation)
    if weights is None:
        return _operators.get_or_make(
            key, lambda: Regridder(source, target, method, normalisation), lambda made: made.nbytes
        )

    def kept() -> Regridder:
        return Regridder.kept(weights, source, target, method, normalisation)

    new = None if Path(weights).exists() else kept()
    state = os.stat(weights)  # of another file by the same name nothing is remembered
    key = (*key, os.path.realpath(weights), f"{state.st_mtime_ns} {state.st_size}")
    return _operators.get_or_make(key, lambda: new or kept(), lambda made: made.nbytes)


def _check_between(operator: Regridder, source: SphericalGrid, target: SphericalGrid) -> None:
    """Refuse an operator whose points are not those of the data set and of the target."""
    for name, own, wanted in (("source", operator.source, source), ("target", operator.target, target)):
        near = own.size == wanted.size and bool(
            (
                np.linalg.norm(own.xyz.reshape(-1, 3) - wanted.xyz.reshape(-1, 3), axis=-1)
                <= 1e-2 * np.sqrt(np.asarray(wanted.weights).ravel())
            ).all()
        )
        if not near:
            raise ValueError(
                f"the operator's {name} is the {own!r}, but here it is the {wanted!r}: leave the operator "
                "out, ga.xarray.regrid(ds, target), or make one between these, "
                "operator=ga.xarray.Regridder(ga.grids.from_xarray(ds), target)"
            )
