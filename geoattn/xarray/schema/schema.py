"""Which variable and level is which channel: the bridge between data sets and tensors, as a value."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from geoattn._value import Value
from geoattn.grids import SphericalGrid, recognise
from geoattn.grids.coordinates import AREA_NAMES
from geoattn.xarray.schema.attributes import to_text
from geoattn.xarray.schema.levels import places
from geoattn.xarray.schema.variable import ENCODING as ENCODING
from geoattn.xarray.schema.variable import Variable, read_variable


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Schema(Value, kind="schema"):
    """The channels of tensors ``[..., C, *grid.shape]``, and all it takes to write them back.

    Immutable; equal by content; ``to_dict()`` gives JSON types and ``from_dict()`` takes them.
    :meth:`of` reads it off a data set.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> ga.xarray.Schema.of(ds)
    schema of [1 channel] on the Gaussian grid 8×16: t, static
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
            default every variable on the grid that holds real numbers, by name, as stores do not keep an
            order, and those without sample dimensions last.
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
            raise TypeError(
                f"a schema is read off an xarray Dataset, got {type(ds).__name__}; of one array make one: "
                "array.to_dataset(name='…')"
            )
        report = recognise(ds, **recognition)
        as_found = variables is None
        if variables is None:
            variables = on_grid(ds, report.dims)
            if not variables:
                raise ValueError(
                    f"no variable holds real numbers on the grid's {report.dims}: there is {what_is_in(ds)}"
                )
        chosen = variables if isinstance(variables, Mapping) else dict.fromkeys(variables)
        masks = dict(masked) if isinstance(masked, Mapping) else dict.fromkeys(masked, "changing")
        for option, names in (("masked", masks), ("fills", fills or {})):
            for name in set(names) - set(chosen):
                raise ValueError(f"{option} names {name!r}, which is not among the variables {list(chosen)}")
        found = [
            read_variable(
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
        found = places([level], list(variable.levels)) if variable.level_dim and level is not None else [-1]
        if found[0] < 0:
            raise ValueError(
                f"variable {name!r} has no level {level!r}; "
                + (f"its levels are {list(variable.levels)}" if variable.level_dim else "it has no levels")
            )
        return int(channels.start) + int(found[0])

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

    def __repr__(self) -> str:
        lead = "".join(f"{dim}, " for dim in self.sample_dims)
        variables = "; ".join(map(repr, self.variables))
        count = f"{len(self)} channel{'s' if len(self) != 1 else ''}"
        return f"schema of [{lead}{count}] on the {self.grid!r}: {variables}"


def on_grid(ds: Any, grid_dims: tuple[str, ...]) -> list[str]:
    """The numeric variables on the grid, but for what describes it."""
    return [name for name in _lying_on(ds, grid_dims) if ds[name].dtype.kind in "biuf"]


def all_on_grid(ds: Any, grid_dims: tuple[str, ...], call: str) -> list[str]:
    """The variables on the grid of ``call``, all of which must be numeric: nothing is dropped unsaid."""
    names = _lying_on(ds, grid_dims)
    for name in names:
        if ds[name].dtype.kind not in "biuf":
            raise ValueError(
                f"{call}[{name!r}], {ds[name].dtype} over {ds[name].dims}, is no field of real numbers: "
                f"leave it out, {call}.drop_vars({name!r})"
            )
    if not names:
        raise ValueError(
            f"no variable of {call} holds real numbers on the grid's {grid_dims}: there is {what_is_in(ds)}"
        )
    return names


def what_is_in(ds: Any) -> str:
    """The variables of a data set in words."""
    kinds = (f"{name!r} of {v.dtype} over {v.dims}" for name, v in ds.data_vars.items())
    return ", ".join(kinds) or "none at all"


def _lying_on(ds: Any, grid_dims: tuple[str, ...]) -> list[str]:
    return [
        str(name)
        for name, variable in ds.data_vars.items()
        if set(grid_dims) <= set(map(str, variable.dims)) and not describes_grid(ds, name)
    ]


def describes_grid(ds: Any, name: Any) -> bool:
    """Whether a variable tells of the grid: a cell area, a coordinate or its bounds, a grid mapping."""
    bounds = {c.attrs.get("bounds", c.encoding.get("bounds")) for c in ds.coords.values()}
    attributes = ds[name].attrs
    return (
        name in bounds
        or attributes.get("standard_name") in ("cell_area", "latitude", "longitude")
        or str(name).lower() in AREA_NAMES
        or "grid_mapping_name" in attributes
    )


def require_schema(schema: object) -> None:
    """Refuse what is no schema, with the call that makes one.

    Raises
    ------
    TypeError
        If it is none.
    """
    if not isinstance(schema, Schema):
        got = type(schema).__name__
        raise TypeError(f"schema must be a schema, got {got}: that of a data set is ga.xarray.Schema.of(ds)")
