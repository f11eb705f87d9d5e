"""What a data set's dimensions are for: samples, levels, or the grid."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

#: lower-case names and CF standard names of dimensions along which samples follow one another
SAMPLES = {
    "time",
    "valid_time",
    "init_time",
    "forecast_reference_time",
    "prediction_timedelta",
    "lead_time",
    "forecast_period",
    "step",
    "realization",
    "ensemble",
    "member",
    "number",
}
#: lower-case names and CF standard names of dimensions whose values are channels of a variable
LEVELS = {
    "level",
    "levels",
    "lev",
    "plev",
    "pressure",
    "pressure_level",
    "isobaricinhpa",
    "air_pressure",
    "height",
    "altitude",
    "depth",
    "model_level",
    "model_level_number",
    "hybrid",
}


def sort_dimensions(
    ds: Any, name: str, grid_dims: Collection[str], sample_dims: Collection[str], level_dims: Collection[str]
) -> tuple[tuple[str, ...], str]:
    """The sample dimensions of a variable, in its order, and its level dimension or ``""``.

    Raises
    ------
    ValueError
        If a dimension is neither, or if there are several level dimensions.
    """
    samples, levels = [], []
    for dim in map(str, ds[name].dims):
        if dim in grid_dims:
            continue
        if dim in sample_dims or (dim not in level_dims and _is_sample(ds, dim)):
            samples.append(dim)
        elif dim in level_dims or is_level(ds, dim):
            levels.append(dim)
        else:
            raise ValueError(
                f"dimension {dim!r} of variable {name!r} is neither known for times nor for levels. Say what "
                f"it is: Schema.of(ds, sample_dims=[{dim!r}]) for one more axis of samples, "
                f"Schema.of(ds, level_dims=[{dim!r}]) to make a channel of each of its values"
            )
    if len(levels) > 1:
        one = next(free for free in ("level", *sorted(LEVELS)) if free not in {*ds.dims, *ds.variables})
        number = math.prod(int(ds.sizes[dim]) for dim in levels)
        raise ValueError(
            f"variable {name!r} has several level dimensions, {levels}: stack them into one, ds.stack({one}="
            f"{levels}, create_index=False).assign_coords({one}=range({number})), or select one value of the "
            "others"
        )
    return tuple(samples), levels[0] if levels else ""


def _is_sample(ds: Any, dim: str) -> bool:
    if dim.lower() in SAMPLES:
        return True
    if dim not in ds.coords:
        return False
    coordinate = ds.coords[dim]
    attrs = coordinate.attrs
    return coordinate.dtype.kind in "mM" or attrs.get("axis") == "T" or attrs.get("standard_name") in SAMPLES


def is_level(ds: Any, dim: str) -> bool:
    """Whether a dimension or coordinate is of levels, by its name or its attributes."""
    if dim.lower() in LEVELS:
        return True
    attrs = ds.coords[dim].attrs if dim in ds.coords else {}
    return attrs.get("axis") == "Z" or "positive" in attrs or attrs.get("standard_name") in LEVELS
