"""Data sets to tensors and back, by a schema, without loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
import xarray
from numpy.typing import NDArray
from torch import Tensor

from geoattn.operands import require_tensor
from geoattn.xarray.schema.attributes import from_text
from geoattn.xarray.schema.fit import fit_schema
from geoattn.xarray.schema.levels import places
from geoattn.xarray.schema.schema import Schema, require_schema
from geoattn.xarray.schema.times import stamp
from geoattn.xarray.schema.variable import OWN_LEVELS, Variable, channel_values


@overload
def to_tensor(
    ds: Any, schema: Schema, *, dtype: torch.dtype | None = None, return_mask: Literal[False] = False
) -> Tensor: ...


@overload
def to_tensor(
    ds: Any, schema: Schema, *, dtype: torch.dtype | None = None, return_mask: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def to_tensor(
    ds: Any, schema: Schema, *, dtype: torch.dtype | None = None, return_mask: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """The data of a data set as one tensor ``[*samples, C, *grid.shape]``.

    Parameters
    ----------
    ds
        xarray Dataset on the schema's grid, with its variables and levels. Dimensions that are
        neither the grid's nor levels, such as time, lead the tensor, in the order of the first
        variable that has any; static variables are repeated along them.
    schema
        Which variable and level is which channel.
    dtype
        The smallest type of at least 32 bits that holds every variable exactly, unless given.
    return_mask
        Return ``(values, mask)``; ``mask`` has the shape of the values and is True where there was a
        value. ``mask.all(schema.channel_axis)`` is a ``key_mask`` for attention on the grid.

    Raises
    ------
    ValueError
        If the data set lies on another grid, lacks a variable or level, or holds a value that is not
        finite where the schema declares no mask.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> ga.xarray.to_tensor(ds, ga.xarray.Schema.of(ds)).shape
    torch.Size([1, 8, 16])
    """
    require_schema(schema)
    dims = fit_schema(ds, schema)
    leading = _leading(ds, schema, dims)
    sizes = tuple(int(ds.sizes[dim]) for dim in leading)
    natural = np.result_type(np.float32, *(variable.dtype for variable in schema.variables))
    values = np.empty((*sizes, len(schema), *schema.grid.shape), natural)
    mask = np.ones(values.shape, bool) if return_mask else None

    def place(index: Sequence[int]) -> str:
        return ", ".join(
            f"{dim} {stamp(ds[dim].values[i]) if dim in ds.coords else i}"
            for dim, i in zip(leading, index, strict=False)
        )

    for variable, channels in zip(schema.variables, schema.slices, strict=True):
        own = tuple(dim for dim in leading if dim in ds[variable.name].dims)
        given = channel_values(ds[variable.name], variable, own, dims, schema.grid.shape)
        part = channel_part(values, channels, schema)
        part[...] = given.reshape(
            *(ds.sizes[dim] if dim in own else 1 for dim in leading), variable.size, *schema.grid.shape
        )
        hidden = None if mask is None else channel_part(mask, channels, schema)
        fill_missing(part, hidden, variable, schema, place)
    tensor = torch.from_numpy(values)
    if dtype is not None:
        tensor = tensor.to(dtype)
    return tensor if mask is None else (tensor, torch.from_numpy(mask))


def to_xarray(
    tensor: Tensor,
    schema: Schema,
    coords: Any = None,
    *,
    dims: Sequence[str] | None = None,
    mask: Tensor | None = None,
    packing: bool = False,
) -> xarray.Dataset:
    """The data set that a tensor stands for: the inverse of :func:`to_tensor`, to the bit.

    Parameters
    ----------
    tensor
        ``[*samples, C, *grid.shape]`` in physical units, on any device.
    schema
        Gives names, dimensions in the file's order, types, attributes and packing.
    coords
        Where the coordinates come from: a Dataset, DataArray or mapping of coordinates. Those that
        fit the result's dimensions are taken, and with a Dataset the bounds and grid mapping too.
    dims
        Names of the leading axes: the schema's sample dimensions unless given.
    mask
        True where there is a value, shaped like the tensor: the rest becomes NaN again. Static
        masks are part of the schema and need none.
    packing
        Whether files written from the result pack numbers as the source did, by ``scale_factor`` and
        ``add_offset``. Values outside of the range that the source was packed for would be written
        wrong, without a word from xarray: leave it False for anything but the source's own values.

    Raises
    ------
    TypeError
        If the tensor or the mask is none.
    ValueError
        If the shapes do not fit, a mask is missing, or a static variable differs between samples.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ds = ga.xarray.coordinates(grid).assign(t=(("latitude", "longitude"), grid.lat))
    >>> schema = ga.xarray.Schema.of(ds)
    >>> ga.xarray.to_xarray(ga.xarray.to_tensor(ds, schema), schema).t.dims
    ('latitude', 'longitude')
    """
    require_schema(schema)
    require_tensor("tensor", tensor)
    if mask is not None:
        require_tensor("mask", mask)
    shape = schema.grid.shape
    leading = tensor.dim() - 1 - len(shape)
    expected = (len(schema), *shape)
    if leading < 0 or tuple(tensor.shape[leading:]) != expected:
        raise ValueError(
            f"expected a tensor [..., {', '.join(map(str, expected))}] for the {schema!r}, "
            f"got {list(tensor.shape)}"
        )
    if dims is None:
        dims = schema.sample_dims if leading else ()
    if len(dims) != leading:
        raise ValueError(
            f"a tensor of shape {list(tensor.shape)} has {leading} leading axes, but they are named "
            f"{tuple(dims)}: to_xarray(tensor, schema, coords, dims=[…])"
        )
    if mask is not None and mask.shape != tensor.shape:
        raise ValueError(f"mask has shape {list(mask.shape)}, the tensor {list(tensor.shape)}")
    values = tensor.detach().cpu().numpy()
    visible = None if mask is None else mask.cpu().numpy()
    arrays = {}
    for variable, channels in zip(schema.variables, schema.slices, strict=True):
        arrays[variable.name] = _to_variable(
            channel_part(values, channels, schema),
            None if visible is None else channel_part(visible, channels, schema),
            variable,
            tuple(dims),
            schema,
        )
    ds = _on_all_levels(arrays, schema)
    if coords is not None:
        ds = _with_coordinates(ds, coords, schema)
    ds.attrs = from_text(schema.attributes_text)
    for variable in schema.variables:  # last, since most operations of xarray drop the encoding
        ds[variable.name].encoding = variable.encoding if packing else variable.unpacked_encoding
    return ds


def channel_part(values: NDArray[Any], channels: slice, schema: Schema) -> NDArray[Any]:
    """Some channels of ``values [..., C, *grid.shape]``, as a view."""
    rank = len(schema.grid.shape)
    return np.moveaxis(np.moveaxis(values, -1 - rank, 0)[channels], 0, -1 - rank)


def fill_missing(
    values: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    variable: Variable,
    schema: Schema,
    place: Callable[[Sequence[int]], str],
    tokens: NDArray[np.int32] | None = None,
) -> None:
    """Replace the missing values of a variable, in place.

    Parameters
    ----------
    values
        ``[*samples, channels, *grid.shape]``.
    mask
        The same shape; becomes False where values were missing. None if it is not wanted.
    variable, schema
        The variable, and the schema it is part of.
    place
        Names the sample with some index in errors.
    tokens
        Which points of the grid they are, where they are not all: ``[*samples, channels, points]``.

    Raises
    ------
    ValueError
        If values are missing where the schema does not allow that, or are infinite.
    """
    finite = np.isfinite(values)
    if variable.mask != "static" and finite.all():
        return
    array = f"ds[{variable.name!r}]"
    infinite = np.isinf(values)
    if infinite.any():
        wrong = infinite
        remedy = f"only NaN stands for a missing value: {array} = {array}.where(np.isfinite({array}))"
    elif variable.mask == "none":
        wrong, remedy = ~finite, f"the schema declares no mask: Schema.of(ds, masked=[{variable.name!r}])"
    elif variable.mask == "static":
        visible = variable.visible
        if tokens is not None:
            visible = visible.reshape(*visible.shape[: -len(schema.grid.shape)], -1)[..., tokens]
        wrong = finite != visible
        change = {variable.name: "changing"}
        remedy = f"the mask of the schema is static and says otherwise: Schema.of(ds, masked={change})"
    else:
        wrong, remedy = infinite, ""
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        leading = values.ndim + schema.channel_axis if tokens is None else values.ndim - 2
        others = int(wrong.sum()) - 1
        sample, point = place(index[:leading]), index[leading + 1 :]
        if tokens is not None:
            point = tuple(int(i) for i in np.unravel_index(tokens[point[0]], schema.grid.shape))
        raise ValueError(
            f"{variable.labels[index[leading]]!r} is {values[index]}"
            f"{' at ' + sample if sample else ''}, at point {point} of the grid"
            f"{f', and at {others} more' if others else ''}; {remedy}"
        )
    values[~finite] = variable.fill
    if mask is not None:
        mask[...] = finite


def _leading(ds: Any, schema: Schema, grid_dims: tuple[str, ...]) -> tuple[str, ...]:
    """The dimensions that lead the tensor: those of the first variable that has any."""
    found: tuple[str, ...] = ()
    for variable in schema.variables:
        own = set(grid_dims) | {variable.level_dim}
        dims = tuple(str(dim) for dim in ds[variable.name].dims if dim not in own)
        if dims and variable.static:
            raise ValueError(f"variable {variable.name!r} is static in the schema, but has dimensions {dims}")
        if found and dims and set(dims) != set(found):
            raise ValueError(f"variable {variable.name!r} has sample dimensions {dims}, others {found}")
        found = found or dims
    return found


def _to_variable(
    values: NDArray[Any],
    visible: NDArray[np.bool_] | None,
    variable: Variable,
    leading: tuple[str, ...],
    schema: Schema,
) -> xarray.Variable:
    if variable.mask == "static":
        visible = np.broadcast_to(variable.visible, values.shape)
    elif variable.mask == "changing" and visible is None:
        raise ValueError(
            f"values of {variable.name!r} may be missing, differently in each sample: say where, "
            "to_xarray(tensor, schema, coords, mask=mask)"
        )
    if variable.static and leading:
        values, first = values.reshape(-1, *values.shape[len(leading) :]), values[(0,) * len(leading)]
        if not all(np.array_equal(sample, first) for sample in values):
            raise ValueError(
                f"variable {variable.name!r} is static in the schema, but differs between samples of the "
                "tensor; to leave it out: schema.changing"
            )
        values, visible = first, None if visible is None else visible[(0,) * len(leading)]
        leading = ()
    dtype = np.dtype(variable.dtype)
    stored = (np.rint(values) if dtype.kind in "biu" else values).astype(dtype)
    if visible is not None and variable.mask != "none":
        stored[~visible] = np.nan
    lead = stored.shape[: len(leading)]
    levels = (variable.level_dim,) if variable.level_dim else ()
    stored = stored.reshape(*lead, *(variable.size for _ in levels), *schema.grid_sizes)
    array = xarray.Variable((*leading, *levels, *schema.grid_dims), stored, variable.attrs, variable.encoding)
    if set(leading) == set(variable.dims) - {variable.level_dim, *schema.grid_dims}:
        return array.transpose(*variable.dims)
    rest = [dim for dim in variable.dims if dim in (*levels, *schema.grid_dims)]
    return array.transpose(*leading, *rest)


def _on_all_levels(arrays: dict[str, xarray.Variable], schema: Schema) -> xarray.Dataset:
    """One data set of all variables: NaN on the levels that a variable lacks and others have.

    The attribute :data:`OWN_LEVELS` says which it has: NaN elsewhere is no missing value.
    """
    levels: dict[str, dict[Any, None]] = {}  # a dictionary, as it keeps the order
    for variable in schema.variables:
        levels.setdefault(variable.level_dim, {}).update(dict.fromkeys(variable.levels))
    ds = xarray.Dataset(
        {
            variable.name: xarray.DataArray(
                arrays[variable.name],
                {variable.level_dim: list(variable.levels)} if variable.level_dim else None,
            )
            for variable in schema.variables
            if tuple(variable.levels) == tuple(levels[variable.level_dim])
        }
    )
    for variable in schema.variables:
        if variable.name not in ds:
            dim = variable.level_dim
            part = xarray.DataArray(arrays[variable.name], {dim: list(variable.levels)})
            ds[variable.name] = part.reindex({dim: list(levels[dim])}).assign_attrs(
                {OWN_LEVELS: json.dumps(list(variable.levels))}
            )
    return ds[list(schema.names)]


def _with_coordinates(ds: xarray.Dataset, coords: Any, schema: Schema) -> xarray.Dataset:
    """The data set with those of the coordinates that fit it."""
    if isinstance(coords, xarray.Dataset | xarray.DataArray):
        given = coords.coords.to_dataset()
        extra = coords if isinstance(coords, xarray.Dataset) else given
    else:
        given = extra = xarray.Dataset(coords=coords)
    levels = {v.level_dim for v in schema.variables if v.level_dim} & set(given.indexes)
    chosen = {dim: places(ds[dim].values, given[dim].values) for dim in levels}
    for level_dim, found in chosen.items():
        if (found < 0).any():
            raise ValueError(
                f"coords has the values {given[level_dim].values} along {level_dim!r}, without "
                f"{ds[level_dim].values[found < 0]} of the schema: give those of a data set with its levels"
            )
    given, extra = given.isel(chosen), extra.isel(chosen)
    fitting = given.drop_vars(
        [name for name, variable in given.variables.items() if not set(variable.dims) <= set(ds.dims)]
    )
    for name, variable in fitting.variables.items():
        for dim, size in variable.sizes.items():
            if size != ds.sizes[dim]:
                raise ValueError(
                    f"coordinate {name!r} has {size} values along {dim!r}, the tensor {ds.sizes[dim]}"
                )
    ds = ds.drop_vars(chosen).assign_coords(fitting.coords)
    attached = [c.attrs.get("bounds", c.encoding.get("bounds")) for c in fitting.variables.values()]
    attached += [v.attrs.get("grid_mapping") for v in ds.data_vars.values()]
    told = [name for name in dict.fromkeys(attached) if name in extra.variables]
    ds = ds.assign({name: extra[name].variable for name in told if name in extra.data_vars})
    ds = ds.assign_coords({name: extra[name].variable for name in told if name in extra.coords})
    source = coords if isinstance(coords, xarray.Dataset | xarray.DataArray) else given
    for name in set(ds.variables) & set(source.coords):
        ds[name].encoding = source[name].encoding
    return ds
