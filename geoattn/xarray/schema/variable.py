"""One variable of a data set and the channels it fills."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value
from geoattn.grids import Recognition
from geoattn.xarray.schema.attributes import from_text, to_text
from geoattn.xarray.schema.dimensions import sort_dimensions
from geoattn.xarray.schema.levels import check_once, places
from geoattn.xarray.schema.values import check_numbers

#: what of a variable's encoding is kept: how its numbers are stored, not how they are chunked
ENCODING = (
    "dtype",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "grid_mapping",
    "coordinates",
)
#: attribute that lists, as JSON, the levels a variable has where others of the data set have more
OWN_LEVELS = "geoattn_levels"
MASKS = ("none", "static", "changing")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Variable(Value, kind="variable"):
    """One variable of a data set and the channels it fills.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> ga.xarray.Schema.of(ds).variables[0].name
    't'
    """

    name: str
    #: the file's dimensions, in the file's order
    dims: tuple[str, ...]
    #: the dimension whose values are the channels, ``""`` if the variable is one channel
    level_dim: str
    #: values of that dimension, one per channel; empty if the variable is one channel
    levels: tuple[Any, ...]
    #: dtype of the decoded values
    dtype: str
    #: what stands in for missing values in tensors
    fill: float
    #: ``"none"``: no value may be missing; ``"static"``: those outside ``visible``; ``"changing"``: any
    mask: str
    #: where there are values, ``[channels, *grid.shape]`` bool, if the mask is static; else empty
    visible: NDArray[np.bool_]
    #: whether it lacks the sample dimensions
    static: bool
    #: attributes and encoding as JSON; :attr:`attrs` and :attr:`encoding` give them as dictionaries
    attributes_text: str
    encoding_text: str

    @property
    def attrs(self) -> dict[str, Any]:
        """The variable's attributes."""
        return from_text(self.attributes_text)

    @property
    def encoding(self) -> dict[str, Any]:
        """How the file stores the variable: packing, fill values and type."""
        return from_text(self.encoding_text)

    @property
    def unpacked_encoding(self) -> dict[str, Any]:
        """The encoding, for files that store the numbers as they are."""
        encoding = self.encoding
        if encoding.get("dtype", self.dtype) == self.dtype and not {"scale_factor", "add_offset"} & set(
            encoding
        ):
            return encoding
        return {key: encoding[key] for key in ("grid_mapping", "coordinates") if key in encoding}

    @property
    def units(self) -> str:
        """The attribute ``units``, ``""`` if there is none."""
        return str(self.attrs.get("units", ""))

    @property
    def size(self) -> int:
        """Number of channels."""
        return len(self.levels) if self.level_dim else 1

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the channels, such as ``"temperature 850"``."""
        return tuple(f"{self.name} {level}" for level in self.levels) if self.level_dim else (self.name,)

    def __repr__(self) -> str:
        levels = f" at {len(self.levels)} × {self.level_dim}" if self.level_dim else ""
        units = f" [{self.units}]" if self.units else ""
        notes = (", static" if self.static else "") + (f", {self.mask} mask" if self.mask != "none" else "")
        return f"{self.name}{units}{levels}{notes}"


def read_variable(
    ds: Any,
    name: str,
    levels: Iterable[Any] | None,
    report: Recognition,
    mask: str,
    fill: float,
    sample_dims: Collection[str],
    level_dims: Collection[str],
) -> tuple[Variable, tuple[str, ...]]:
    """A variable of the schema, and its sample dimensions."""
    if name not in ds.variables:
        apart = f"; names stand apart, {' '.join(name.split(','))!r} on a command line" if "," in name else ""
        raise ValueError(f"no variable {name!r} in the data set; there are {list(ds.data_vars)}{apart}")
    array = ds[name]
    dims = tuple(map(str, array.dims))
    if missing := [dim for dim in report.dims if dim not in dims]:
        raise ValueError(
            f"variable {name!r} has the dimensions {dims}, without {missing} of the grid's {report.dims}. "
            "Leave it out, Schema.of(ds, variables=[…]), or put it on the grid: one schema has one grid"
        )
    check_numbers(array, f"ds[{name!r}]")
    if mask not in MASKS:
        raise ValueError(f"the mask of {name!r} must be 'static' or 'changing', got {mask!r}")
    if mask != "none" and array.dtype.kind != "f":
        raise ValueError(f"variable {name!r} holds {array.dtype}, which has no missing values to mask")
    if not np.isfinite(fill):
        raise ValueError(f"the fill value of {name!r} must be a finite number, got {fill}")
    samples, level_dim = sort_dimensions(ds, name, report.dims, sample_dims, level_dims)
    variable = Variable(
        name=str(name),
        dims=dims,
        level_dim=level_dim,
        levels=_levels(ds, name, level_dim, levels),
        dtype=array.dtype.str,
        fill=float(fill),
        mask=mask,
        visible=np.zeros(0, bool),
        static=not samples,
        attributes_text=to_text(array.attrs),
        encoding_text=to_text(_kept_encoding(array.encoding)),
    )
    if mask == "static":
        first = array.isel(dict.fromkeys(samples, 0))
        values = channel_values(first, variable, (), report.dims, report.grid.shape)
        visible = ~np.isnan(values)
        for channel in np.flatnonzero(~visible.reshape(variable.size, -1).any(1))[:1]:
            level = f" at the level {variable.levels[channel]}" if variable.levels else ""
            raise ValueError(
                f"the mask of {name!r} hides all{level}: the first sample has no value there. Leave that "
                "out: Schema.of(ds, variables=…), or say that the mask changes, "
                f"masked={{{name!r}: 'changing'}}"
            )
        variable = dataclasses.replace(variable, visible=visible)
    return variable, samples


def _levels(ds: Any, name: str, level_dim: str, wanted: Iterable[Any] | None) -> tuple[Any, ...]:
    if not level_dim:
        if wanted is not None:
            raise ValueError(f"variable {name!r} has no levels to choose {list(wanted)} from: give None")
        return ()
    if level_dim not in ds.coords:
        raise ValueError(
            f"dimension {level_dim!r} of variable {name!r} has no coordinate that names its levels: "
            f"ds.assign_coords({level_dim}=[…])"
        )
    axis = ds.coords[level_dim].values
    there = axis.tolist()
    check_once(axis, level_dim, "ds")
    levels = there if wanted is None else [np.asarray(level).item() for level in wanted]
    found = places(levels, axis).tolist()
    for level, place in zip(levels, found, strict=True):
        if place < 0:
            raise ValueError(f"variable {name!r} has no level {level!r}: its levels are {there}")
        if found.count(place) > 1:
            raise ValueError(f"level {level!r} of variable {name!r} is asked for twice")
    if not levels:
        raise ValueError(f"no levels of variable {name!r} are asked for: leave the variable out")
    # as the file writes them, so that a level asked for as 500 is found under 500.0
    return tuple(there[place] for place in found)


def _kept_encoding(encoding: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: encoding[key] for key in ENCODING if encoding.get(key) is not None}
    if "dtype" in kept:
        kept["dtype"] = np.dtype(kept["dtype"]).str
    return kept


def channel_values(
    array: Any,
    variable: Variable,
    leading: tuple[str, ...],
    grid_dims: tuple[str, ...],
    shape: tuple[int, ...],
) -> NDArray[Any]:
    """The values of a DataArray as ``[*leading, channels, *shape]``, its chosen levels in their order."""
    if variable.level_dim:
        chosen = places(variable.levels, array[variable.level_dim].values)
        array = array.isel({variable.level_dim: chosen})
        array = array.transpose(*leading, variable.level_dim, *grid_dims)
    else:
        array = array.transpose(*leading, *grid_dims)
    lead = array.shape[: len(leading)]
    values: NDArray[Any] = array.values.reshape(*lead, variable.size, *shape)
    return values
