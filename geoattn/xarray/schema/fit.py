"""Whether one thing fits another: a mask a field, a data set a schema, a truth a forecast.

Every entry of the bridge asks here: :func:`fit_mask` for masks, :func:`fit_schema` for data sets and
schemas, and both stand on the same checks of numbers, units and places as the scores do. What a refusal
names in its remedy is called as the entry calls it: ``ds``, ``mask``, ``truth``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids import LatLonGrid, Recognition, SphericalGrid, recognise
from geoattn.grids.coordinates import Source
from geoattn.grids.from_declaration import from_declaration
from geoattn.xarray.schema.attributes import from_text
from geoattn.xarray.schema.levels import check_once, places, selecting
from geoattn.xarray.schema.times import check_calendars, settled
from geoattn.xarray.schema.units import check_units
from geoattn.xarray.schema.values import check_numbers

if TYPE_CHECKING:
    from geoattn.xarray.schema.schema import Schema

#: deviation of coordinates, in steps of their axis, up to which they are the same
TOLERANCE = 1e-3


def fit_schema(ds: Any, schema: Schema) -> tuple[str, ...]:
    """The dimensions of ``ds`` that the shape of the schema's grid follows, once the data set fits.

    It fits if it has every variable and level, in numbers of the schema's kind and in its units, on its
    points in its order.

    Raises
    ------
    TypeError
        If it is no Dataset.
    ValueError
        Naming the first thing that does not fit, and the call that mends it.
    """
    if not hasattr(ds, "data_vars"):
        raise TypeError(
            f"a schema describes an xarray Dataset, got {type(ds).__name__}; of one array make one: "
            "array.to_dataset(name='…')"
        )
    fit_variables(ds, {v.name: v.units for v in schema.variables}, "ds", "schema")
    for variable in schema.variables:
        array, kind = ds[variable.name], np.dtype(variable.dtype).kind
        if (array.dtype.kind == "f") != (kind == "f"):
            raise ValueError(
                f"{variable.name!r} holds {array.dtype} in the data set, but {np.dtype(variable.dtype)} in "
                "the schema: "
                f"convert it, ds[{variable.name!r}] = ds[{variable.name!r}].astype({variable.dtype!r})"
            )
        if variable.level_dim:
            _check_levels(ds, variable.name, variable.level_dim, variable.levels)
    report = recognise(ds, **from_text(schema.recognition_text))
    check_points(report, schema.grid, "ds", "schema", "schema.grid")
    return report.dims


def fit_variables(ds: Any, units: Mapping[str, str], what: str, other: str, of_array: bool = False) -> None:
    """Refuse a data set ``what`` that lacks variables of the ``other``, or has them in other units.

    Parameters
    ----------
    units
        Names of the variables, and the units of each in the other; an empty one says nothing.
    of_array
        Whether ``what`` was given as a DataArray, the one variable of the data set.

    Raises
    ------
    ValueError
        Naming the variable, and the call that mends it where there is one.
    """
    if absent := [name for name in units if name not in ds.variables]:
        there = [str(name) for name in ds.data_vars if name not in units]
        remedy = f": if it is called otherwise, {what}.rename({there[0]}={absent[0]!r})" if there else ""
        raise ValueError(
            f"{_said(what)} lacks {absent} of {_said(other)}, it has {list(ds.data_vars)}{remedy}"
        )
    for name, wanted in units.items():
        call = what if of_array else f"{what}[{name!r}]"
        check_numbers(ds[name], call)
        found = str(ds[name].attrs.get("units", ""))
        check_units(name, found, wanted, _said(what), _said(other), call)


def _said(what: str) -> str:
    return "the data set" if what == "ds" else f"the {what}"


def check_points(
    report: Recognition,
    grid: SphericalGrid,
    what: str,
    other: str,
    target: str,
    scored_with_gaps: Callable[[], bool] = lambda: False,
) -> None:
    """Refuse points that are not those of ``grid``, the grid of the ``other``, in its order.

    Points are the same within the tolerance of the recognition: files round them.

    Parameters
    ----------
    report
        Of what is checked, which is called ``what``.
    target
        What the other is called, as a target of regridding.
    scored_with_gaps
        Says whether it is scored, and values are missing: regridding is told what becomes of them, and scores
        which points count then.

    Raises
    ------
    ValueError
        Naming both grids, and the call that brings the one to the other.
    """
    found = report.grid
    if found == grid:
        return
    if found.shape == grid.shape:
        apart = float(np.linalg.norm(found.xyz - grid.xyz, axis=-1).max())
        if np.degrees(apart) <= max(report.tolerance, 1e-6):
            return
    whole, there = _said(what), _said(other)
    if found.size == grid.size and np.array_equal(_sorted_points(found), _sorted_points(grid)):
        raise ValueError(
            f"{whole} has the points of {there}, the {grid!r}, in another order, {found!r}: bring them "
            "into that "
            f"order, {_reordered(report, grid, what, target)}"
        )
    gaps = scored_with_gaps()
    options = ", missing='renormalise'" if gaps else ""
    after = ", and score the points where both have a value, mask='both'" if gaps else ""
    raise ValueError(
        f"{whole} lies on the {found!r}, {there} on the {grid!r}: bring one to the other, "
        f"ga.xarray.regrid({what}, {target}{options}){after}"
    )


def _reordered(report: Recognition, grid: SphericalGrid, what: str, target: str) -> str:
    """The call that brings points into the order of ``grid``."""
    found, dims = report.grid, report.dims
    if not (isinstance(found, LatLonGrid) and isinstance(grid, LatLonGrid) and len(dims) == 2):
        return f"ga.xarray.regrid({what}, {target}, method='nearest', missing='propagate')"
    call, (nlat, nlon) = what, grid.shape
    if nlat > 1 and abs(found.lat_axis[0] - grid.lat_axis[0]) > 1e-3:
        call += f".isel({dims[0]}=slice(None, None, -1))"
    turns = round((found.lon_axis[0] - grid.lon_axis[0]) / 360.0 * nlon) % nlon
    return call + (f".roll({dims[1]}={turns}, roll_coords=True)" if turns else "")


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
        raise TypeError(
            f"{what} must be an xarray DataArray of bool, got "
            f"{repr(mask) if isinstance(mask, str) else type(mask).__name__}; of an array in the order "
            f"of the field make one: xarray.DataArray({what}, field.coords, field.dims)"
        )
    if mask.dtype.kind != "b":
        largest = float(mask.max()) if mask.dtype.kind in "iuf" and mask.size else 1.0
        threshold = 50 if largest > 1.5 else 0.5
        raise ValueError(
            f"{what} holds {mask.dtype}, but must be True where a point counts and False elsewhere: set a "
            f"threshold, {what} > {threshold}. To weigh by a fraction instead, divide two means: "
            "ga.xarray.mean(field * fraction) / ga.xarray.mean(fraction)"
        )
    return mask


def fit_mask(
    mask: Any,
    field: xarray.DataArray,
    dims: Sequence[str],
    what: str = "mask",
    other: str = "field",
    others: bool = True,
) -> xarray.DataArray:
    """The mask at the points of the field, by the field's names and coordinates.

    Coordinates are compared with a tolerance: those of another file may be rounded to float32. A mask may
    lack dimensions of the field, along which it is then the same.

    Parameters
    ----------
    dims
        The dimensions that the points of the field lie along.
    what, other
        What mask and field are called.
    others
        Whether the other dimensions are compared too; the scores match theirs by label.

    Raises
    ------
    TypeError, ValueError
        As :func:`as_mask`; also if the mask has dimensions that the field lacks, or lies elsewhere.
    """
    return fit_points(as_mask(mask, what), field, dims, what, other, others)


def fit_points(
    mine: xarray.DataArray,
    field: xarray.DataArray,
    dims: Sequence[str],
    what: str,
    other: str,
    others: bool = True,
) -> xarray.DataArray:
    """What :func:`fit_mask` does, of anything that lies on the points of a field, such as weights."""
    mine = _renamed(mine, dims)
    beside = [dim for dim in mine.dims if dim not in dims]
    if others and (extra := [dim for dim in beside if dim not in field.dims]):
        free = [
            dim for dim in field.dims if dim not in mine.dims and field.sizes[dim] == mine.sizes[extra[0]]
        ]
        remedy = f"rename it, {what}.rename({extra[0]}={free[0]!r})" if free else "select one value of it, "
        remedy += "" if free else f"{what}.isel({extra[0]}=0)"
        raise ValueError(
            f"{what} has the dimensions {mine.dims}, the {other} {field.dims}, without {extra[0]!r}: {remedy}"
        )
    for dim in mine.dims:
        if dim in beside and not others:
            continue
        if dim in mine.coords and dim in field.coords:
            check = check_axis if dim in dims else _check_labels
            check(str(dim), mine[dim].values, field[dim].values, what, other)
        elif mine.sizes[dim] != field.sizes[dim]:
            raise ValueError(
                f"{what} has {mine.sizes[dim]} points along {dim!r}, the {other} {field.sizes[dim]}, and one "
                f"of them has no coordinate to tell which these are: ga.xarray.coordinates(grid) gives both"
            )
    _check_places(mine, field, what, other)
    compared = [dim for dim in mine.dims if dim in dims or others]
    dropped = [name for name, c in mine.coords.items() if set(c.dims) & set(compared) or not c.dims]
    own = {dim: field[dim] for dim in compared if dim in field.coords}
    fitting: xarray.DataArray = mine.drop_vars(dropped).assign_coords(own)
    return fitting


def check_axis(dim: str, mine: NDArray[Any], theirs: NDArray[Any], what: str, other: str) -> None:
    """Refuse horizontal coordinates ``mine`` of ``what`` that are not ``theirs`` of the ``other``.

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
    accepted, ours = _accepted(theirs), mine.astype(np.float64)
    differs = np.abs(ours - theirs) > accepted
    if not differs.any():
        return
    if (np.abs(ours[::-1] - theirs) <= accepted).all():
        raise ValueError(
            f"{what} runs along {dim!r} in the other direction than the {other}: turn it, "
            f"{what}.isel({dim}=slice(None, None, -1))"
        )
    for base in (0.0, -180.0, float(theirs[0]) - 2 * accepted):
        if (np.abs(np.sort((ours - base) % 360.0 + base) - theirs) <= accepted).all():
            begin, end = (
                (f"({what}[{dim!r}] - {base:.9g})", f" + {base:.9g}") if base else (f"{what}[{dim!r}]", "")
            )
            raise ValueError(
                f"{what} counts {dim!r} from {mine[0]:g}, the {other} from {theirs[0]:g}: bring both to one "
                f"order, {what}.assign_coords({dim}={begin} % 360{end}).sortby({dim!r})"
            )
    i = int(np.argmax(differs))
    raise ValueError(
        f"{what} and {other} differ along {dim!r}: at index {i} there are {mine[i]} and {theirs[i]}. "
        f"Bring one to the grid of the other: ga.xarray.regrid({what}, {other}, method='nearest')"
    )


def _check_labels(dim: str, mine: NDArray[Any], theirs: NDArray[Any], what: str, other: str) -> None:
    """Refuse times or levels of one thing that are not those of the other, in its order."""
    if mine.dtype.kind in "MO" or theirs.dtype.kind in "MO":
        owner, _, name = what.partition("[")
        check_calendars(mine, theirs, dim, what, other, (owner, other), of_arrays=not name)
    ours, wanted = settled(mine), settled(theirs)
    found = places(wanted, ours)
    if len(mine) == len(theirs) and np.array_equal(found, np.arange(len(mine))):
        return
    if (found >= 0).all():
        raise ValueError(
            f"{what} has other values along {dim!r} than the {other}, or another order: select the same "
            f"ones, {selecting(what, other, dim, mine, theirs)}"
        )
    lacking = theirs[found < 0]
    remedy = (
        f": select what both have, {selecting(other, what, dim, theirs, mine)}"
        if (places(ours, wanted) >= 0).all()
        else ""
    )
    raise ValueError(
        f"{what} lacks {dim} {lacking[0]} and {len(lacking) - 1} more that the {other} has: it has "
        f"{len(mine)}, {mine[0]} to {mine[-1]}{remedy}"
    )


def _check_levels(ds: Any, name: str, dim: str, levels: Collection[Any]) -> None:
    """Refuse a variable without some of the schema's levels."""
    if dim not in ds[name].dims:
        raise ValueError(
            f"{name!r} has dimensions {ds[name].dims} in the data set, without the schema's {dim!r}: if it "
            "is of one "
            f"level, ds[{name!r}] = ds[{name!r}].expand_dims({dim}=[…])"
        )
    if dim not in ds.coords:
        raise ValueError(
            f"dimension {dim!r} of {name!r} has no coordinate that names its levels: "
            f"ds = ds.assign_coords({dim}=[…])"
        )
    there = ds[dim].values
    check_once(there, dim, "ds")
    wanted = np.asarray(list(levels))
    if not (absent := wanted[places(wanted, there) < 0].tolist()):
        return
    remedy = ": make a schema of those that are there, ga.xarray.Schema.of(ds)"
    if {wanted.dtype.kind, there.dtype.kind} <= set("iuf"):
        for sign, factor in (("/", 0.01), ("*", 100.0)):
            if (places(wanted, there * factor) >= 0).all():
                remedy = f": in other units? ds = ds.assign_coords({dim}=ds[{dim!r}] {sign} 100)"
    raise ValueError(f"{name!r} lacks the levels {absent}: there are {there.tolist()}{remedy}")


def _check_places(mine: xarray.DataArray, field: xarray.DataArray, what: str, other: str) -> None:
    """Refuse latitudes and longitudes of every point that are not those of the field."""
    here, there = Source(mine), Source(field)
    remedy = f"bring it to the same points: ga.xarray.regrid({what}, {other}, method='nearest')"
    if (ours := here.healpix()) and (theirs := there.healpix()):
        one, two = from_declaration(here, *ours).grid, from_declaration(there, *theirs).grid
        if one != two:
            raise ValueError(f"{what} lies on the {one!r}, the {other} on the {two!r}: {remedy}")
    for axis in ("latitude", "longitude"):
        try:
            a, b = here.coordinate(axis, None), there.coordinate(axis, None)
        except ValueError:
            continue  # one of them does not say
        if a.name in mine.dims or a.values.shape != b.values.shape:
            continue  # an axis, which has been compared
        largest = float(np.abs((a.values - b.values + 180.0) % 360.0 - 180.0).max())
        if largest > max(TOLERANCE, a.rounding, b.rounding):
            raise ValueError(
                f"{what} lies elsewhere than the {other}: {a.name!r} differs by up to {largest:g}; {remedy}"
            )


def _renamed(mine: xarray.DataArray, dims: Sequence[str]) -> xarray.DataArray:
    """``mine`` by other names of the horizontal dimensions, if it has latitudes and longitudes."""
    if set(dims) & set(map(str, mine.dims)):
        return mine
    try:
        found = recognise(mine).dims
    except ValueError:
        return mine
    return mine.rename(dict(zip(found, dims, strict=True))) if len(found) == len(dims) else mine


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
