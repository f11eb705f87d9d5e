"""Reading a data set's horizontal coordinates by the conventions that files follow.

Works on xarray's Dataset and DataArray without importing xarray: only ``coords``, ``data_vars``,
``dims``, ``attrs``, ``encoding`` and ``values`` are used.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.grids.base import SphericalGrid
from geoattn.grids.sphere import Floats, Ints

#: what CF (section 4.1 and 4.2) accepts as units of latitude and longitude
UNITS = {
    "latitude": {"degrees_north", "degree_north", "degree_N", "degrees_N", "degreeN", "degreesN"},
    "longitude": {"degrees_east", "degree_east", "degree_E", "degrees_E", "degreeE", "degreesE"},
}
#: names in use where attributes are missing, compared in lower case
NAMES = {
    "latitude": ("latitude", "lat", "nav_lat", "xlat", "clat", "latcell"),
    "longitude": ("longitude", "lon", "nav_lon", "xlong", "clon", "loncell"),
}
#: dimensions along which a grid stays where it is, in lower case
TIMES = ("time", "valid_time", "step", "prediction_timedelta", "lead_time")
AREA_NAMES = ("cell_area", "areacella", "areacello", "areacell", "cell_area_p", "grid_area")
#: the way out where a data set covers no globe
POINTS_CALL = "ga.grids.points(lat, lon, areas=…)"

_RADIUS = 6.371e6
_EARTH_AREA = 4.0 * np.pi * _RADIUS**2  # square metres
#: units of areas, and how many of them the globe has
EARTH_AREAS = {
    **dict.fromkeys(("m2", "m^2", "m**2"), _EARTH_AREA),
    **dict.fromkeys(("km2", "km^2"), _EARTH_AREA * 1e-6),
    **dict.fromkeys(
        ("sr", "steradian", "steradians", "rad2", "rad^2", "radian2", "radian^2", "radians^2"), 4.0 * np.pi
    ),
}


@dataclasses.dataclass(frozen=True)
class Match:
    """A grid found for a data set; :class:`~geoattn.grids.recognition.Recognition` explains the fields."""

    grid: SphericalGrid
    dims: tuple[str, ...]
    weights: str
    deviation: float
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Coordinate:
    """One horizontal coordinate, in degrees."""

    name: str
    dims: tuple[str, ...]
    values: Floats
    #: spacing of the file's floating-point numbers at 360°: its values carry no more than this
    rounding: float
    #: how the user reads these values off the data set
    code: str
    in_radians: bool = False

    @property
    def degrees(self) -> str:
        """The code that gives degrees."""
        return f"np.degrees({self.code})" if self.in_radians else self.code

    @property
    def sort(self) -> str:
        """The call that sorts the data set along this axis."""
        by = repr(self.name) if self.code == f"ds[{self.name!r}]" else self.code
        return f"ds.sortby({by})"

    def drop(self, repeats: Ints) -> str:
        """The call that drops these places of this axis, which repeat others."""
        (dim,) = self.dims
        exact = len(np.unique(np.delete(self.values, repeats))) == len(np.unique(self.values))
        if exact and dim == self.name:
            return f"ds.drop_duplicates({dim!r})"
        return f"ds.isel({dim}=np.delete(np.arange({self.values.size}), {repeats.tolist()}))"


class Source:
    """The variables of a Dataset, or of a DataArray's coordinates, by name."""

    def __init__(self, data: Any) -> None:
        if not (hasattr(data, "coords") and hasattr(data, "dims")):
            raise TypeError(f"expected an xarray Dataset or DataArray, got {type(data).__name__}")
        self.variables: dict[str, Any] = {str(name): data.coords[name] for name in data.coords}
        self.is_dataset = hasattr(data, "data_vars")
        self.variables |= {str(name): data[name] for name in getattr(data, "data_vars", ())}
        #: what may be missing over land
        self.fields = [data[name] for name in data.data_vars] if self.is_dataset else [data]
        self.sizes: dict[str, int] = {str(dim): int(size) for dim, size in data.sizes.items()}
        #: of the sphere that a mesh lies on, metres, where the file says it; 1 of a unit sphere
        attrs = getattr(data, "attrs", {})
        self.radius: float | None = float(attrs["sphere_radius"]) if "sphere_radius" in attrs else None
        #: the mesh that a DataArray lies on
        self.mesh: str | None = None if self.is_dataset else attrs.get("mesh")
        #: a variable that a DataArray refers to, but does not carry
        mapping = data.encoding.get("grid_mapping", data.attrs.get("grid_mapping"))
        self.left_behind: str | None = None if mapping in self.variables else mapping

    def coordinate(self, axis: str, name: str | None) -> Coordinate:
        """Latitude or longitude: the named variable, or the one that the conventions point to."""
        if name is None:
            name = self._find(axis)
        elif name not in self.variables:
            raise ValueError(f"no variable {name!r} to be the {axis}; there are {list(self.variables)}")
        variable = self.variables[name]
        stored = np.asarray(variable.values)
        values = stored.astype(np.float64)
        in_radians = str(variable.attrs.get("units", "")).startswith("rad")
        if in_radians:
            values = np.degrees(values)
        rounding = float(np.spacing(np.asarray(360.0, stored.dtype))) if stored.dtype.kind == "f" else 0.0
        dims = tuple(map(str, variable.dims))
        return Coordinate(name, dims, values, rounding, f"ds[{name!r}]", in_radians)

    def areas(self, dims: tuple[str, ...]) -> tuple[str, Floats, str] | None:
        """Name, values ``[*dims]`` and units of the cell areas given for these dimensions, if any."""
        for name, variable in self.variables.items():
            is_area = variable.attrs.get("standard_name") == "cell_area" or name.lower() in AREA_NAMES
            if is_area and set(map(str, variable.dims)) == set(dims):
                values = np.asarray(variable.transpose(*dims).values, dtype=np.float64)
                return name, values, str(variable.attrs.get("units", ""))
        return None

    def empty(self, dims: tuple[str, ...]) -> NDArray[np.bool_] | None:
        """Where no field on these dimensions has a value, ``[*dims]``, at the first place along others.

        Of those that miss any; None if there is none.
        """
        empty: NDArray[np.bool_] | None = None
        for field in self.fields:
            if not set(dims) <= set(map(str, field.dims)) or field.dtype.kind != "f":
                continue
            first = field.isel({dim: 0 for dim in field.dims if str(dim) not in dims}).transpose(*dims)
            missing = np.isnan(first.values)
            if missing.any():  # what is everywhere, such as bounds, says nothing of land
                empty = missing if empty is None else empty & missing
        return empty

    def bounds(self, coordinate: Coordinate) -> tuple[str, Floats] | None:
        """Name and values of the bounds that a coordinate refers to, if they are there, in degrees.

        Of an axis ``[n, 2]``, of points ``[*shape, k]``, the corners of their cells.
        """
        attrs, encoding = (getattr(self.variables[coordinate.name], kind) for kind in ("attrs", "encoding"))
        name = attrs.get("bounds", encoding.get("bounds"))
        if name not in self.variables:
            return None
        variable = self.variables[name]
        corner = [dim for dim in variable.dims if str(dim) not in coordinate.dims]
        if len(corner) != 1 or variable.ndim != len(coordinate.dims) + 1:
            return None
        values = np.asarray(variable.transpose(*coordinate.dims, *corner).values, dtype=np.float64)
        if values.shape[:-1] != coordinate.values.shape:
            return None
        return name, np.degrees(values) if coordinate.in_radians else values

    def healpix(self) -> tuple[str, dict[str, Any]] | None:
        """The variable that declares a HEALPix grid, and its attributes."""
        for name, variable in self.variables.items():
            if "healpix" in (variable.attrs.get("grid_mapping_name"), variable.attrs.get("grid_name")):
                return name, dict(variable.attrs)
        return None

    def projection(self) -> str | None:
        """The grid mapping of a projection, where no latitude or no longitude is there to be found."""
        if self.candidates("latitude") and self.candidates("longitude"):
            return None
        plain = {"latitude_longitude", "healpix"}
        kinds = {n: v.attrs.get("grid_mapping_name", "healpix") for n, v in self.variables.items()}
        found = [name for name, kind in kinds.items() if kind not in plain]
        used = [v.attrs.get("grid_mapping", v.encoding.get("grid_mapping")) for v in self.variables.values()]
        named = [name for name in found if name in used]
        return next(iter(named or found), None)

    def with_standard_name(self, standard_name: str) -> Iterator[str]:
        """Names of the variables with that standard name."""
        return (n for n, v in self.variables.items() if v.attrs.get("standard_name") == standard_name)

    def candidates(self, axis: str) -> list[str]:
        """The variables that are latitudes, or longitudes, by the conventions, else by their names."""
        bounds = {v.attrs.get("bounds", v.encoding.get("bounds")) for v in self.variables.values()}
        # a comparison such as ds.latitude > 30 keeps the attributes of what was compared: no coordinate
        candidates = {n: v for n, v in self.variables.items() if n not in bounds and v.dtype.kind in "iuf"}

        def declared(attrs: dict[str, Any]) -> bool:
            # grid_latitude and the like have a standard name of their own, whatever their units
            return bool(attrs.get("standard_name", axis) == axis) and (
                "standard_name" in attrs or attrs.get("units") in UNITS[axis]
            )

        found = [n for n, v in candidates.items() if declared(v.attrs)]
        return found or [n for n in candidates if n.lower() in NAMES[axis]]

    def _bare_dims(self, axis: str) -> tuple[str, str] | None:
        """The last two dimensions of a field, if nothing along them might be the missing coordinate."""
        field = max(self.fields, key=lambda field: len(field.dims), default=None)
        if field is None or len(field.dims) < 2:
            return None
        old, new = map(str, field.dims[-2:])
        fields = {str(one.name) for one in self.fields}
        along = {
            name: variable
            for name, variable in self.variables.items()
            if variable.dtype.kind in "iuf" and variable.dims and set(map(str, variable.dims)) <= {old, new}
        }
        # variables of two dimensions are fields, unless two of them could be degrees
        degrees = [
            name
            for name, variable in along.items()
            if name in fields and str(variable.attrs.get("units", "deg")).startswith(("deg", "rad"))
        ]
        (other,) = set(NAMES) - {axis}
        return None if set(along) - fields - set(self.candidates(other)) or len(degrees) > 1 else (old, new)

    def _find(self, axis: str) -> str:
        found = self.candidates(axis)
        keyword = axis[:3]
        if not found:
            for name, variable in self.variables.items():
                if name.lower() in NAMES[axis] and variable.dtype.kind not in "iuf":
                    raise ValueError(
                        f"{axis} {name!r} holds {variable.dtype}, not numbers: make some of them, "
                        f"ds = ds.assign_coords({name}=ds[{name!r}].astype(float))"
                    )
            if self.left_behind:
                raise ValueError(
                    f"no {axis} found, and the grid mapping {self.left_behind!r} is not among the "
                    "coordinates: pass the Dataset, ga.grids.recognise(ds)"
                )
            what = (
                f"no {axis} found: no variable has standard_name {axis!r} or units "
                f"{sorted(UNITS[axis])[-1]!r}, and none is named like one of {NAMES[axis]}; there are "
                f"{list(self.variables)}"
            )
            dims = self._bare_dims(axis)
            if dims is not None:
                both = dict(zip(NAMES, dims, strict=True))
                renamed = ", ".join(f"{dim}={name!r}" for name, dim in both.items() if dim != name)
                own = ", ".join(f"{n}=({dim!r}, […])" for n, dim in both.items() if not self.candidates(n))
                call = f"ds.rename({renamed})" if renamed else "ds"
                raise ValueError(
                    f"{what}, and none that could be meant: the coordinates are missing. Give the data those "
                    f"of their grid, ds = {call}.assign_coords(ga.xarray.coordinates(grid).coords), or your "
                    f"own, ds = ds.assign_coords({own})"
                )
            raise ValueError(f"{what}. Say which it is: ga.grids.recognise(ds, {keyword}='…')")
        if len(found) > 1:
            one = ", or pass one variable, ds['…']" if self.is_dataset else ""
            raise ValueError(
                f"{len(found)} variables could be the {axis}: {found}. Say which is meant, "
                f"ga.grids.recognise(ds, {keyword}={found[0]!r}){one}"
            )
        return found[0]


def check_fixed(lats: Coordinate, lons: Coordinate) -> None:
    """Refuse coordinates that are repeated along time: the grid is that of one moment."""
    for coordinate in (lats, lons):
        for axis, dim in enumerate(coordinate.dims):
            if dim.lower() not in TIMES or len(coordinate.dims) == 1:
                continue
            first = coordinate.values.take([0], axis=axis)
            moves = bool((np.abs(coordinate.values - first) > coordinate.rounding + 1e-9).any())
            remedy = (
                f"it moves with {dim!r}, so each time has a grid of its own: select one, ds.isel({dim}=0)"
                if moves
                else f"it is the same at every {dim!r}: keep one, ds.assign_coords({coordinate.name}="
                f"ds[{coordinate.name!r}].isel({dim}=0)), and the other coordinate likewise"
            )
            raise ValueError(f"{coordinate.name!r} has the dimensions {coordinate.dims}; {remedy}")


def axes(lats: Coordinate, lons: Coordinate) -> tuple[Coordinate, Coordinate]:
    """Both coordinates as two axes, or on the same dimensions."""
    for coordinate in (lats, lons):
        if not coordinate.dims:
            raise ValueError(
                f"{coordinate.name!r} is a single number, {coordinate.values:g}: the data lie at one place. "
                "Pass the data set before the selection"
            )
    if set(lats.dims) == set(lons.dims):
        if lons.dims != lats.dims:
            order = [lons.dims.index(dim) for dim in lats.dims]
            code = f"{lons.code}.transpose{lats.dims}"
            lons = dataclasses.replace(lons, dims=lats.dims, values=lons.values.transpose(order), code=code)
        if len(lats.dims) == 2:
            return _separated(lats, lons)
    elif len(lats.dims) != 1 or len(lons.dims) != 1:
        raise ValueError(
            f"latitude {lats.name!r} has dimensions {lats.dims} and longitude {lons.name!r} has {lons.dims}: "
            "they belong to no one grid. Say which are meant: ga.grids.recognise(ds, lat='…', lon='…')"
        )
    return lats, lons


def _separated(lats: Coordinate, lons: Coordinate) -> tuple[Coordinate, Coordinate]:
    """Two-dimensional coordinates that only repeat two axes, as those axes."""
    for axis in (0, 1):
        lat = lats.values.take([0], axis=1 - axis)
        lon = lons.values.take([0], axis=axis)
        if (
            np.abs(lats.values - lat).max() <= lats.rounding + 1e-9
            and np.abs(lons.values - lon).max() <= lons.rounding + 1e-9
        ):
            row, column = lats.dims[axis], lats.dims[1 - axis]
            return (
                dataclasses.replace(
                    lats, dims=(row,), values=lat.ravel(), code=f"{lats.code}.isel({column}=0)"
                ),
                dataclasses.replace(
                    lons, dims=(column,), values=lon.ravel(), code=f"{lons.code}.isel({row}=0)"
                ),
            )
    return lats, lons


def check_finite(coordinate: Coordinate, of_points: bool) -> None:
    """Refuse missing coordinates; those of points can be dropped, an axis would have a gap."""
    bad = np.flatnonzero(~np.isfinite(coordinate.values))
    if len(bad):
        dims = coordinate.dims
        where = tuple(int(i) for i in np.unravel_index(bad[0], coordinate.values.shape))
        if not of_points:
            remedy = "Fill them in"
        elif len(dims) == 1:
            remedy = f"Drop these points: ds.isel({dims[0]}=np.isfinite({coordinate.code}))"
        else:
            flat = f".stack(point={dims})"
            remedy = f"Drop these points: ds{flat}.isel(point=np.isfinite({coordinate.code}{flat}))"
        raise ValueError(
            f"{coordinate.name!r} has {len(bad)} missing values, the first at index {where}. {remedy}"
        )


def check_not_radians(lats: Coordinate, lons: Coordinate) -> None:
    """Refuse coordinates, taken for degrees, whose values are those of the globe in radians."""

    def globe(values: Floats, whole: float) -> bool:
        return bool(0.8 * whole < np.ptp(values) <= whole + 1e-3 and np.abs(values).max() <= whole + 1e-3)

    north, east = globe(lats.values, math.pi), globe(lons.values, 2 * math.pi)
    both = north and east and np.abs(lats.values).max() <= math.pi / 2 + 1e-3
    # one of them, where the other is known to be the globe's
    if both or (east and globe(lats.values, 180.0)) or (north and lons.in_radians):
        wrong = [x for x, is_wrong in ((lats, north), (lons, east)) if is_wrong]
        runs = " and ".join(f"{x.name!r} from {x.values.min():g} to {x.values.max():g}" for x in wrong)
        stated = " = ".join(f"ds[{x.name!r}].attrs['units']" for x in wrong)
        raise ValueError(
            f"{runs.replace(' from', ' runs from', 1)}: the globe in radians, which nothing says. State it: "
            f"{stated} = 'radian'. If degrees are meant, this is a small region: {POINTS_CALL}"
        )


def check_areas(name: str, areas: Floats, units: str) -> None:
    """Refuse areas that are missing somewhere, or do not add up to the globe."""
    bad = np.flatnonzero(~((areas > 0) & np.isfinite(areas)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} cell areas in {name!r} are missing or not positive, the first is "
            f"{areas.flat[bad[0]]}. To leave the areas out: ga.grids.recognise(ds, use_areas=False)"
        )
    share = areas.sum() / EARTH_AREAS.get(units, areas.sum())
    if abs(share - 1.0) > 0.02:
        raise ValueError(
            f"the cell areas in {name!r} sum to {areas.sum():.3g} {units}, {share:.0%} of the globe: "
            "cells are missing or in other units. "
            "To leave the areas out: ga.grids.recognise(ds, use_areas=False)"
        )


def steradians(name: str, areas: Floats, units: str, radius: float | None = None) -> Floats:
    """Cell areas of a file as steradians; those of cells that cover the globe sum to 4π.

    ``radius`` is that of the file's sphere in metres. Where the file does not say it, areas within 0.3 %
    of the globe's are the globe's: models take other radii of the Earth.
    """
    if radius is not None and units not in EARTH_AREAS and not units.strip():
        units = "m2"
    if units not in EARTH_AREAS:
        raise ValueError(
            f"the cell areas in {name!r} have the units {units!r}: state those that they are in, "
            f"ds[{name!r}].attrs['units'] = 'm2', or leave them out, "
            "ga.grids.recognise(ds, use_areas=False)"
        )
    whole, near = 4.0 * np.pi, 3e-3
    found: Floats = areas * (whole / EARTH_AREAS[units])
    if radius is not None and EARTH_AREAS[units] == _EARTH_AREA:
        found, near = areas / radius**2, 1e-5
    return found * (whole / found.sum()) if abs(found.sum() / whole - 1.0) < near else found


def rounded_up(fraction: float) -> str:
    """Two digits, not below the number: a tolerance to suggest."""
    unit = 10.0 ** (math.floor(math.log10(fraction)) - 1)
    return f"{math.ceil(fraction / unit * (1 + 1e-6)) * unit:.2g}"
