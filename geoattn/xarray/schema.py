"""Which variable and level is which channel: the bridge between data sets and tensors, as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn._value import Value
from geoattn.grids import SphericalGrid, recognise
from geoattn.grids.coordinates import AREA_NAMES
from geoattn.xarray.attributes import from_text, to_text
from geoattn.xarray.dimensions import sort_dimensions

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
MASKS = ("none", "static", "changing")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Variable(Value, kind="variable"):
    """One variable of a data set and the channels it fills."""

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Schema(Value, kind="schema"):
    """The channels of tensors ``[..., C, *grid.shape]``, and all it takes to write them back.

    Immutable; equal by content; ``to_dict()`` gives JSON types and ``from_dict()`` takes them.
    :meth:`of` reads it off a data set.
    """

    #: where the data lie; the tokens of a tensor are in its order
    grid: SphericalGrid
    #: the file's dimensions that ``grid.shape`` follows, and their sizes
    grid_dims: tuple[str, ...]
    grid_sizes: tuple[int, ...]
    #: dimensions along which samples follow one another, such as time: the leading axes of tensors
    sample_dims: tuple[str, ...]
    variables: tuple[Variable, ...]
    #: attributes of the data set, as JSON
    attributes_text: str
    #: the options that settled the recognition of the grid, as JSON
    recognition_text: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variables:
            raise ValueError("a schema needs at least one variable")

    @classmethod
    def of(
        cls,
        ds: Any,
        variables: Iterable[str] | Mapping[str, Iterable[Any] | None] | None = None,
        *,
        masked: Collection[str] | Mapping[str, str] = (),
        fills: Mapping[str, float] | None = None,
        sample_dims: Collection[str] = (),
        level_dims: Collection[str] = (),
        **recognition: Any,
    ) -> Schema:
        """The schema of a data set.

        Parameters
        ----------
        ds
            xarray Dataset. Coordinates are read; of the data, one sample of the variables whose mask
            is static.
        variables
            Their names, in the order of the channels; or name → levels, None for all of them. By
            default every variable on the grid by name, as stores do not keep an order, and those
            without sample dimensions last.
        masked
            Variables with missing values (NaN): names, or name → ``"static"`` (missing at the same
            points in every sample, as over land; read from the first) or ``"changing"`` (the default).
            A missing value in any other variable is an error where it is read.
        fills
            Variable → value that stands in for missing ones, in its units; 0 by default.
        sample_dims, level_dims
            Dimensions that lead the tensor, and dimensions whose values become channels, where neither
            CF attributes nor common names tell.
        **recognition
            Options of :func:`geoattn.grids.recognise`: ``lat``, ``lon``, ``tolerance``, ``use_areas``.

        Raises
        ------
        ValueError
            If the grid is not recognised, a variable is missing, has no numbers or does not lie on the
            grid, if levels are repeated or unknown, or a dimension cannot be told.
        """
        if not hasattr(ds, "data_vars"):
            raise TypeError(f"a schema is read off an xarray Dataset, got {type(ds).__name__}")
        report = recognise(ds, **recognition)
        as_found = variables is None
        if variables is None:
            variables = on_grid(ds, report.dims)
            if not variables:
                raise ValueError(
                    f"no variable lies on the grid's dimensions {report.dims}: {list(ds.data_vars)}"
                )
        chosen = variables if isinstance(variables, Mapping) else dict.fromkeys(variables)
        masks = dict(masked) if isinstance(masked, Mapping) else dict.fromkeys(masked, "changing")
        for option, names in (("masked", masks), ("fills", fills or {})):
            for name in set(names) - set(chosen):
                raise ValueError(f"{option} names {name!r}, which is not among the variables {list(chosen)}")
        found = [
            _read_variable(
                ds,
                name,
                levels,
                report,
                masks.get(name, "none"),
                (fills or {}).get(name, 0.0),
                sample_dims,
                level_dims,
            )
            for name, levels in chosen.items()
        ]
        all_dims = [dims for _, dims in found if dims]
        leading = all_dims[0] if all_dims else ()
        for variable, dims in found:
            if dims and set(dims) != set(leading):
                raise ValueError(
                    f"variable {variable.name!r} has the sample dimensions {dims}, but "
                    f"{found[[d for _, d in found].index(leading)][0].name!r} has {leading}: "
                    "make two schemas of them, Schema.of(ds, variables)"
                )
        ordered = [v for v, _ in found]
        if as_found:
            ordered.sort(key=lambda variable: (variable.static, variable.name))
        return cls(
            grid=report.grid,
            grid_dims=report.dims,
            grid_sizes=tuple(int(ds.sizes[dim]) for dim in report.dims),
            sample_dims=leading,
            variables=tuple(ordered),
            attributes_text=to_text(ds.attrs),
            recognition_text=to_text(recognition),
        )

    # --- channels -----------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of channels."""
        return sum(variable.size for variable in self.variables)

    def __bool__(self) -> bool:
        return True

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the channels, ``[C]``."""
        return tuple(label for variable in self.variables for label in variable.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return tuple(variable.name for variable in self.variables)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The channels of each variable."""
        ends = np.cumsum([variable.size for variable in self.variables]).tolist()
        return tuple(
            slice(end - variable.size, end) for end, variable in zip(ends, self.variables, strict=True)
        )

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in tensors ``[..., C, *grid.shape]``, counted from the end."""
        return -1 - len(self.grid.shape)

    def index(self, name: str, level: Any = None) -> int:
        """The channel of a variable, or of one of its levels.

        Raises
        ------
        ValueError
            If there is no such channel.
        """
        if name not in self.names:
            raise ValueError(f"no variable {name!r}; there are {list(self.names)}")
        i = self.names.index(name)
        variable, channels = self.variables[i], self.slices[i]
        if not variable.level_dim and level is None:
            return int(channels.start)
        if level not in variable.levels:
            raise ValueError(
                f"variable {name!r} has no level {level!r}; "
                + (f"its levels are {list(variable.levels)}" if variable.level_dim else "it has no levels")
            )
        return int(channels.start) + variable.levels.index(level)

    def channels(self, names: Iterable[str]) -> list[int]:
        """All channels of some variables, in the order of this schema."""
        wanted = set(names)
        for name in wanted - set(self.names):
            raise ValueError(f"no variable {name!r}; there are {list(self.names)}")
        pairs = zip(self.variables, self.slices, strict=True)
        return [c for v, s in pairs if v.name in wanted for c in range(s.start, s.stop)]

    def select(self, names: Iterable[str]) -> Schema:
        """The schema of some of the variables, in the order of this one."""
        wanted = set(names)
        self.channels(wanted)
        return dataclasses.replace(self, variables=tuple(v for v in self.variables if v.name in wanted))

    @property
    def changing(self) -> Schema:
        """The schema of the variables that change from sample to sample."""
        return self.select(v.name for v in self.variables if not v.static)

    @property
    def masked(self) -> bool:
        """Whether values may be missing."""
        return any(variable.mask != "none" for variable in self.variables)

    # --- the grid of other data sets ----------------------------------------------------------------

    def dims_in(self, ds: Any) -> tuple[str, ...]:
        """The dimensions of ``ds`` that the grid's shape follows, once its points are known to be the same.

        Raises
        ------
        ValueError
            If the data set lies on another grid, or on the same points in another order.
        """
        report = recognise(ds, **from_text(self.recognition_text))
        grid = report.grid
        if grid == self.grid:
            return report.dims
        if grid.shape == self.grid.shape:
            apart = float(np.linalg.norm(grid.xyz - self.grid.xyz, axis=-1).max())
            if np.degrees(apart) <= max(report.tolerance, 1e-6):
                return report.dims
            if np.array_equal(_sorted_points(grid), _sorted_points(self.grid)):
                raise ValueError(
                    f"the data set has the points of the schema's {self.grid!r} in another order, {grid!r}. "
                    "Bring them into that order, such as by ds.sortby or ds.roll, or make a schema of this "
                    "data set: Schema.of(ds)"
                )
        raise ValueError(f"the data set lies on the {grid!r}, the schema on the {self.grid!r}")

    def __repr__(self) -> str:
        lead = "".join(f"{dim}, " for dim in self.sample_dims)
        variables = "; ".join(map(repr, self.variables))
        count = f"{len(self)} channel{'s' if len(self) != 1 else ''}"
        return f"schema of [{lead}{count}] on the {self.grid!r}: {variables}"


def _sorted_points(grid: SphericalGrid) -> NDArray[np.float64]:
    """The points of a grid in an order of their own, to a thousandth of a degree, ``[size, 2]``."""
    points = np.stack((grid.lat.ravel(), grid.lon.ravel()), axis=-1).round(3)
    ordered: NDArray[np.float64] = points[np.lexsort(points.T)]
    return ordered


def on_grid(ds: Any, grid_dims: tuple[str, ...]) -> list[str]:
    """The numeric variables on the grid, but for cell areas and coordinates' bounds."""
    bounds = {c.attrs.get("bounds", c.encoding.get("bounds")) for c in ds.coords.values()}
    return [
        str(name)
        for name, variable in ds.data_vars.items()
        if set(grid_dims) <= set(map(str, variable.dims))
        and variable.dtype.kind in "biuf"
        and name not in bounds
        and variable.attrs.get("standard_name") not in ("cell_area", "latitude", "longitude")
        and str(name).lower() not in AREA_NAMES
    ]


def _read_variable(
    ds: Any,
    name: str,
    levels: Iterable[Any] | None,
    report: Any,
    mask: str,
    fill: float,
    sample_dims: Collection[str],
    level_dims: Collection[str],
) -> tuple[Variable, tuple[str, ...]]:
    """A variable of the schema, and its sample dimensions."""
    if name not in ds.variables:
        raise ValueError(f"no variable {name!r} in the data set; there are {list(ds.data_vars)}")
    array = ds[name]
    dims = tuple(map(str, array.dims))
    if missing := [dim for dim in report.dims if dim not in dims]:
        raise ValueError(
            f"variable {name!r} has the dimensions {dims}, without {missing} of the grid's {report.dims}. "
            "Leave it out, Schema.of(ds, variables=[…]), or put it on the grid: one schema has one grid"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"variable {name!r} holds {array.dtype}, not real numbers: it makes no channel")
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
        variable = dataclasses.replace(variable, visible=~np.isnan(values))
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
    there = ds.coords[level_dim].values.tolist()
    if repeated := sorted({level for level in there if there.count(level) > 1}):
        raise ValueError(
            f"{level_dim!r} repeats {repeated[0]!r}; drop one of them: ds.drop_duplicates({level_dim!r})"
        )
    levels = there if wanted is None else [np.asarray(level).item() for level in wanted]
    for level in levels:
        if level not in there:
            raise ValueError(f"variable {name!r} has no level {level!r}: its levels are {there}")
        if levels.count(level) > 1:
            raise ValueError(f"level {level!r} of variable {name!r} is asked for twice")
    if not levels:
        raise ValueError(f"no levels of variable {name!r} are asked for: leave the variable out")
    # as the file writes them, so that a level asked for as 500 is found under 500.0
    return tuple(there[there.index(level)] for level in levels)


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
        array = array.sel({variable.level_dim: list(variable.levels)})
        array = array.transpose(*leading, variable.level_dim, *grid_dims)
    else:
        array = array.transpose(*leading, *grid_dims)
    lead = array.shape[: len(leading)]
    values: NDArray[Any] = array.values.reshape(*lead, variable.size, *shape)
    return values
