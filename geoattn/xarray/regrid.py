"""Fields from any grid to any other, by a sparse operator for numpy, torch and xarray."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from geoattn.grids import RegionError, SphericalGrid, named, recognise
from geoattn.grids.interpolation import interpolation
from geoattn.nn.resampling import WeightedSum
from geoattn.xarray.schema.coordinates import coordinates
from geoattn.xarray.schema.schema import describes_grid, on_grid
from geoattn.xarray.schema.values import check_numbers, refuse_labels

#: points further from the nearest of a region than so many sides of its cell lie outside of the region
REACH = 1.5
METHODS = ("auto", "average", "interpolation", "nearest", "majority")
#: methods that give values of the source only, as labels need
OF_LABELS = ("nearest", "majority")
MISSING = ("refuse", "renormalise", "propagate")
#: share of a target point's weights whose values must be there when the rest is missing
LEAST = 0.5


class Regridder:
    """A linear operator from the fields of one spherical grid to those of another.

    Parameters
    ----------
    source, target
        The grids.
    method
        - ``"interpolation"``: second order, exact for constants
          (:func:`geoattn.grids.interpolation.interpolation`).
        - ``"average"``: each target point takes the area mean of the source points nearest to it; one
          that is as near to several is shared among them. Target points that are nearest to none
          interpolate.
        - ``"nearest"``: the value of the nearest source point; of several as near, the first.
        - ``"majority"``: of the values of the source points that the average would take, the one with
          the largest area; of several as large, the smallest.
        - ``"auto"``: the average where there are four source points or more for each target point, else
          the interpolation.

    Raises
    ------
    TypeError
        If a grid is not one of the sphere.
    ValueError
        If there is no such method, or the source is a region and points of the target lie outside.
    """

    def __init__(self, source: SphericalGrid, target: SphericalGrid, method: str = "auto") -> None:
        for name, grid in (("source", source), ("target", target)):
            if not isinstance(grid, SphericalGrid):
                raise TypeError(f"{name} must be a grid of the sphere, got {grid!r}")
        if method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, got {method!r}")
        if not source.is_global:
            _check_within(source, target)
        if method == "auto":
            method = "average" if 4 * target.size <= source.size else "interpolation"
        self.source, self.target, self.method = source, target, method
        #: weights ``[target.size, source.size]``; every row sums to 1
        self.matrix: csr_array = _MATRICES[method](source, target)

    def __call__(self, field: Any, missing: str = "refuse") -> Any:
        """A field ``[..., *source.shape]`` on the target, ``[..., *target.shape]``.

        Parameters
        ----------
        field
            A numpy array, or a torch tensor: differentiable, on any device.
        missing
            What becomes of values that are not finite: ``"refuse"`` them, ``"propagate"`` them to every
            target point that reads one, or ``"renormalise"`` the weights of those that are there; target
            points that would lose more than half of their weight are then missing (NaN).

        Raises
        ------
        ValueError
            If the shape is not the source's, values are missing and refused, or integers would be averaged.
        """
        if missing not in MISSING:
            raise ValueError(f"missing must be one of {MISSING}, got {missing!r}")
        if hasattr(field, "dims"):
            raise TypeError(
                f"field must be a numpy array or a torch tensor, got {type(field).__name__}, whose "
                "coordinates "
                "would not be looked at: ga.xarray.regrid(field, target) looks, or pass field.values"
            )
        rank = len(self.source.shape)
        if tuple(field.shape[field.ndim - rank :]) != self.source.shape:
            raise ValueError(
                f"field of shape {tuple(field.shape)} does not end with the shape {self.source.shape} of the "
                f"source, {self.source!r}"
            )
        xp = torch if isinstance(field, torch.Tensor) else np
        lead = tuple(field.shape[: field.ndim - rank])
        flat = field.reshape(-1, self.source.size)
        if self.method not in OF_LABELS and not _is_real(flat):
            raise ValueError(
                f"the field holds {flat.dtype}, labels or counts whose average is none of them: "
                "method='nearest' or method='majority'; or make real numbers of it, "
                f"field.{'astype(float)' if xp is np else 'double()'}"
            )
        there = xp.isfinite(flat)
        if missing == "refuse" and not bool(there.all()):
            raise ValueError(
                f"{int((~there).sum())} of {there.size if xp is np else there.numel()} values are missing or "
                "infinite: missing='renormalise' leaves them out of the means, missing='propagate' lets them "
                "through"
            )
        if self.method == "nearest":
            out = flat[:, self.matrix.indices]
        elif self.method == "majority":
            out = self._majority(flat)
        elif missing == "propagate" or bool(there.all()):
            out = self._apply(self.matrix, flat)
        else:
            known = xp.where(there, flat, xp.zeros_like(flat))
            share = self._apply(self._positive, there.astype(flat.dtype) if xp is np else there.to(flat))
            enough = share >= LEAST - 1e-6
            partial = self._apply(self._positive, known) / xp.where(enough, share, xp.ones_like(share))
            partial = xp.where(enough, partial, xp.full_like(partial, xp.nan))
            # the convex part of the weights, where values are missing: signs would magnify what is left
            out = xp.where(share > 1 - 1e-6, self._apply(self.matrix, known), partial)
        return out.reshape(*lead, *self.target.shape)

    def _majority(self, flat: Any) -> Any:
        """The value with the largest share of each target point's weights, for ``flat [n, source.size]``."""
        given = flat.cpu().numpy() if isinstance(flat, torch.Tensor) else flat
        out = np.empty((len(given), self.target.size), given.dtype)
        for row, values in zip(out, given, strict=True):
            labels, codes = np.unique(values, return_inverse=True)
            best = np.full(self.target.size, -1.0)
            for code, label in enumerate(labels):
                share = self.matrix @ (codes == code).astype(np.float64)
                wins = share > best + 1e-9  # labels ascend: of equal shares the smallest stays
                row[wins], best[wins] = label, share[wins]
        return torch.from_numpy(out).to(flat.device) if isinstance(flat, torch.Tensor) else out

    @cached_property
    def conservation_error(self) -> float:
        """The largest change of the global mean of a field with values between 0 and 1.

        Smooth fields change far less; :meth:`conservation` measures it for one.
        """
        gained = self.matrix.T @ self.target.weights.ravel() - self.source.weights.ravel()
        return float(np.abs(gained).sum() / (8.0 * np.pi))

    def conservation(self, field: Any) -> Any:
        """Global mean of ``field [..., *source.shape]`` after regridding, less the one before."""
        return self.target.mean(self(field)) - self.source.mean(field)

    @cached_property
    def _positive(self) -> csr_array:
        positive = self.matrix.maximum(0.0).tocsr()
        return csr_array(positive.multiply(1.0 / positive.sum(axis=1)[:, None]))

    @cached_property
    def _modules(self) -> dict[int, WeightedSum]:
        return {}

    def _apply(self, matrix: csr_array, flat: Any) -> Any:
        if not isinstance(flat, torch.Tensor):
            dtype = np.result_type(flat.dtype, np.float32)
            return (matrix @ flat.T.astype(np.float64)).T.astype(dtype)
        module = self._modules.setdefault(id(matrix), WeightedSum(matrix))
        return module.to(flat.device, flat.dtype)(flat.T[None])[0].T

    def __repr__(self) -> str:
        if self.method in OF_LABELS:
            return f"{self.method} from {self.source!r} to {self.target!r}"
        return (
            f"{self.method} from {self.source!r} to {self.target!r}; the global mean of fields in [0, 1] "
            f"changes by at most {self.conservation_error:.2g}"
        )


def _check_within(source: SphericalGrid, target: SphericalGrid) -> None:
    """Refuse targets that a region does not reach: what is said of them would be made up."""
    distance, nearest = cKDTree(source.xyz.reshape(-1, 3)).query(target.xyz.reshape(-1, 3))
    outside = int((distance > REACH * np.sqrt(source.weights.reshape(-1)[nearest])).sum())
    if outside:
        raise RegionError(
            f"{outside} of the {target.size} points of the {target!r} lie outside of the {source!r}: take a "
            "target within it, such as a slice of the grid, "
            "ga.grids.regional(target.lat_axis[rows], target.lon_axis[columns])"
        )


def regrid(ds: Any, target: Any, *, method: str = "auto", missing: str = "refuse", **recognition: Any) -> Any:
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
    method, missing
        As for :class:`Regridder`.
    **recognition
        Options of :func:`geoattn.grids.recognise` for ``ds``.

    Raises
    ------
    ValueError
        If a grid is not recognised, or values are missing and refused: the variable is named.
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
    operator = Regridder(report.grid, grid, method)
    sizes = tuple(int(whole.sizes[dim]) for dim in dims)

    def one(array: xarray.DataArray, call: str) -> xarray.DataArray:
        return _regrid_array(array, operator, missing, report.dims, dims, sizes, call)

    note = {"regridding": repr(operator)}
    if isinstance(ds, xarray.DataArray):
        bare = ds.drop_vars([n for n, c in ds.coords.items() if set(c.dims) & set(report.dims)])
        moved = one(bare, "field")
        return moved.assign_coords(coords.coords).assign_attrs(note)
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
    moved = rest.assign({name: one(bare[name], f"ds[{name!r}]") for name in names}).assign_coords(
        coords.coords
    )
    moved = moved.assign(coords.data_vars)
    order = [n for n in ds.data_vars if n in moved.data_vars]
    return moved[[*order, *coords.data_vars]].assign_attrs({**ds.attrs, **note})


def _regrid_array(
    array: xarray.DataArray,
    operator: Regridder,
    missing: str,
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
            moved = operator(values.reshape(*lead, *operator.source.shape), missing)
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


def _is_real(field: Any) -> bool:
    """Whether a numpy array or torch tensor holds floating-point numbers."""
    if isinstance(field, torch.Tensor):
        return field.is_floating_point()
    return bool(np.issubdtype(field.dtype, np.floating))


def _nearest(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    """Weight 1 for the nearest source point; of several as near, the first."""
    tree = cKDTree(source.xyz.reshape(-1, 3))
    distance, near = tree.query(target.xyz.reshape(-1, 3), k=np.arange(1, min(8, source.size) + 1))
    tied = distance <= distance[:, :1] * (1.0 + 1e-9) + 1e-12
    chosen = np.where(tied, near, source.size).min(axis=1)
    ends = np.arange(target.size + 1)
    return csr_array((np.ones(target.size), chosen, ends), shape=(target.size, source.size))


def _interpolating(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    return interpolation(target, source).matrix(source.size)


def _averaging(source: SphericalGrid, target: SphericalGrid, otherwise: Any = _interpolating) -> csr_array:
    """Rows of area means over the source points nearest to each target point, or of ``otherwise``."""
    # target points at one place, such as a pole in each column, take the same mean
    places, place_of = np.unique(target.xyz.reshape(-1, 3).round(12) + 0.0, axis=0, return_inverse=True)
    count = min(8, len(places))
    distance, near = cKDTree(places).query(source.xyz.reshape(-1, 3), k=np.arange(1, count + 1))
    tied = distance <= distance[:, :1] * (1.0 + 1e-9) + 1e-12
    points, choices = np.nonzero(tied)
    shares = (source.weights.ravel() / tied.sum(axis=1))[points]
    sums = csr_array((shares, (near[points, choices], points)), shape=(len(places), source.size))
    areas = sums.sum(axis=1)
    means = csr_array(sums.multiply(1.0 / np.where(areas > 0, areas, 1.0)[:, None]))[place_of]
    empty = areas[place_of] == 0
    matrix = csr_array(means + otherwise(source, target).multiply(empty[:, None]))
    matrix.eliminate_zeros()
    return matrix


def _covering(source: SphericalGrid, target: SphericalGrid) -> csr_array:
    """As the average, but where a target point is nearest to none, the source point nearest to it."""
    return _averaging(source, target, _nearest)


_MATRICES: dict[str, Callable[[SphericalGrid, SphericalGrid], csr_array]] = {
    "interpolation": _interpolating,
    "average": _averaging,
    "nearest": _nearest,
    "majority": _covering,
}
