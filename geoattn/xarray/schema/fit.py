"""Whether one thing fits another: a data set the points of a grid, a mask a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids import Recognition, SphericalGrid

#: deviation of coordinates, in steps of their axis, up to which they are the same
TOLERANCE = 1e-3


def why_other_points(report: Recognition, grid: SphericalGrid) -> str:
    """Why the points of a recognised grid are not those of ``grid``, in its order; "" if they are.

    Points are the same within the tolerance of the recognition: files round them.
    """
    found = report.grid
    if found == grid:
        return ""
    if found.shape == grid.shape:
        apart = float(np.linalg.norm(found.xyz - grid.xyz, axis=-1).max())
        if np.degrees(apart) <= max(report.tolerance, 1e-6):
            return ""
        if np.array_equal(_sorted_points(found), _sorted_points(grid)):
            return "order"
    return "points"


def as_mask(mask: Any, what: str = "mask") -> xarray.DataArray:
    """The mask, once it is known to be one: True where a point counts.

    Raises
    ------
    TypeError
        If it is no DataArray.
    ValueError
        If it holds numbers: a fraction or a percentage is no mask until a threshold makes it one.
    """
    if not isinstance(mask, xarray.DataArray):
        raise TypeError(f"{what} must be an xarray DataArray of bool, got {type(mask).__name__}")
    if mask.dtype.kind != "b":
        largest = float(mask.max()) if mask.dtype.kind in "iuf" and mask.size else 1.0
        threshold = 50 if largest > 1.5 else 0.5
        raise ValueError(
            f"{what} holds {mask.dtype}, but must be True where a point counts and False elsewhere: set a "
            f"threshold, {what} > {threshold}. To weigh by a fraction instead, divide two means: "
            "ga.xarray.mean(field * fraction) / ga.xarray.mean(fraction)"
        )
    return mask


def fit_mask(mask: Any, field: xarray.DataArray, what: str = "mask") -> xarray.DataArray:
    """The mask with the coordinates of the field, once both are known to be at the same points.

    Coordinates are compared with a tolerance: those of another file may be rounded to float32.

    Raises
    ------
    TypeError, ValueError
        As :func:`as_mask`; also if the mask has dimensions that the field lacks, or lies elsewhere.
    """
    mask = as_mask(mask, what)
    if extra := [dim for dim in mask.dims if dim not in field.dims]:
        raise ValueError(
            f"{what} has the dimensions {mask.dims}, the field {field.dims}: rename them, {what}.rename("
            f"{extra[0]}='…'), or select from them, {what}.isel({extra[0]}=0)"
        )
    for dim in mask.dims:
        if dim in mask.coords and dim in field.coords:
            check_axis(str(dim), mask[dim].values, field[dim].values, what, "field")
        elif mask.sizes[dim] != field.sizes[dim]:
            raise ValueError(
                f"{what} has {mask.sizes[dim]} points along {dim!r}, the field {field.sizes[dim]}"
            )
    for name in set(mask.coords) & set(field.coords) - set(map(str, mask.dims)):
        mine, theirs = mask[name].values, field[name].values
        if mine.ndim > 1 and mine.shape == theirs.shape and mine.dtype.kind in "iuf":
            largest = float(np.abs((mine - theirs + 180.0) % 360.0 - 180.0).max())
            if largest > TOLERANCE:
                raise ValueError(
                    f"{what} lies elsewhere than the field: {name!r} differs by up to {largest:g}; bring the "
                    f"mask to the field's grid: ga.xarray.regrid({what}, field, method='nearest')"
                )
    own = {dim: field[dim] for dim in mask.dims if dim in field.coords}
    fitting: xarray.DataArray = mask.drop_vars(list(mask.coords)).assign_coords(own)
    return fitting


def check_axis(dim: str, mine: NDArray[Any], theirs: NDArray[Any], what: str, other: str) -> None:
    """Refuse coordinates ``mine`` of one thing, ``what``, that are not ``theirs`` of the ``other``.

    Raises
    ------
    ValueError
        Naming the first difference, and the call that brings them together.
    """
    if len(mine) != len(theirs):
        raise ValueError(
            f"{what} has {len(mine)} points along {dim!r}, the {other} {len(theirs)}: select the same ones, "
            f"{what}.sel({dim}={other}[{dim!r}], method='nearest')"
        )
    if mine.dtype.kind not in "iuf" or theirs.dtype.kind not in "iuf":
        differs = mine != theirs
    else:
        accepted, ours = _accepted(theirs), mine.astype(np.float64)
        differs = np.abs(ours - theirs) > accepted
        if differs.any() and (np.abs(ours[::-1] - theirs) <= accepted).all():
            raise ValueError(
                f"{what} runs along {dim!r} in the other direction than the {other}: turn it, "
                f"{what}.isel({dim}=slice(None, None, -1))"
            )
        if differs.any() and (np.abs(np.sort(ours % 360.0) - np.sort(theirs % 360.0)) <= accepted).all():
            raise ValueError(
                f"{what} counts {dim!r} from {mine[0]:g}, the {other} from {theirs[0]:g}: bring both to one "
                f"order, {what}.assign_coords({dim}={what}[{dim!r}] % 360).sortby({dim!r})"
            )
    if np.any(differs):
        i = int(np.argmax(differs))
        raise ValueError(
            f"{what} and {other} differ along {dim!r}: at index {i} there are {mine[i]} and {theirs[i]}. "
            f"Bring one to the grid of the other: ga.xarray.regrid({what}, {other}, method='nearest')"
        )


def _accepted(axis: NDArray[Any]) -> float:
    """Up to which deviation coordinates count as equal: float32's rounding, or a thousandth of a step."""
    values = axis.astype(np.float64)
    step = float(np.abs(np.diff(values)).min()) if len(values) > 1 else 1.0
    return max(TOLERANCE * step, float(np.spacing(np.float32(np.abs(values).max(initial=1.0)))))


def _sorted_points(grid: SphericalGrid) -> NDArray[np.float64]:
    """The points of a grid in an order of their own, to a thousandth of a degree, ``[size, 2]``."""
    points = np.stack((grid.lat.ravel(), grid.lon.ravel()), axis=-1).round(3)
    ordered: NDArray[np.float64] = points[np.lexsort(points.T)]
    return ordered
