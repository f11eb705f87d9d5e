"""``geoattn plot``: a map, a series in time, or a spectrum of a store."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import stores

KINDS = ("map", "series", "spectrum")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw one variable of a store: a map of one time and level; the mean over the grid, or the nearest "
        "point, against time; or the spectrum along parallels. A map leaves missing values white; a mean is "
        "over the points that are there at all times, and says so; a spectrum needs every value."
    )
    add = parser.add_argument
    add("kind", choices=KINDS, help="what to draw")
    stores.add_stores(parser)
    add("--variable", required=True, metavar="NAME", help="the variable to draw")
    add("--level", metavar="LEVEL", help="the level to draw (the first)")
    add("--time", metavar="TIME", help="the time of a map or a spectrum, 2020-01-31T12 (the first)")
    add(
        "--select",
        nargs="+",
        default=[],
        metavar="DIM=NUMBER",
        help="the place along other dimensions, such as prediction_timedelta=3 (the first)",
    )
    add("--point", metavar="LAT,LON", help="where a series is taken, in degrees (the mean over the grid)")
    add("--output", required=True, metavar="FILE", help="picture to write, in the format of its suffix")
    stores.add_recognition(parser)
    stores.add_json(parser)


def run(options: argparse.Namespace) -> int:
    from geoattn.grids import recognise
    from geoattn.xarray.scores.lead_times import initial_time
    from geoattn.xarray.stores.joined import open_stores

    ds = open_stores(options.stores)
    if options.variable not in ds.data_vars:
        raise ValueError(f"there is no variable {options.variable!r}; there are {list(ds.data_vars)}")
    found = recognise(ds, **stores.recognition(options))
    array = ds[options.variable]
    if not set(found.dims) <= set(array.dims):
        raise ValueError(f"{options.variable!r} lies on {array.dims}, not on the grid's {found.dims}")
    time = initial_time(ds)
    array, said = _one(ds, array, found.dims, time, options)
    title = ", ".join([options.variable, *said])
    if options.kind == "map":
        result = _map(array, found, title, options)
    elif options.kind == "series":
        result = _series(array, found, time, title, options)
    else:
        result = _spectrum(array, found, title, options)
    of = f", {result['of']}," if "of" in result else ""
    print(f"The {options.kind} of {title}{of} is {options.output}")
    stores.save_json(options, result)
    return 0


def _one(
    ds: Any, array: Any, dims: tuple[str, ...], time: str | None, options: argparse.Namespace
) -> tuple[Any, list[str]]:
    """One field, or one series of them, and in words what was taken along the other dimensions."""
    import numpy as np

    from geoattn.xarray.schema.dimensions import is_level
    from geoattn.xarray.schema.levels import places
    from geoattn.xarray.schema.times import stamp
    from geoattn.xarray.scores.lead_times import in_hours

    chosen = {}
    for word in options.select:
        dim, _, number = word.partition("=")
        if dim not in array.dims or not number.lstrip("-").isdigit():
            raise ValueError(f"{word!r} selects nothing of the dimensions {array.dims}: write DIM=NUMBER")
        chosen[dim] = int(number)
    said = []
    for dim in array.dims:
        if dim in dims or (dim == time and options.kind == "series"):
            continue
        place = chosen.get(dim, 0)
        labels = ds[dim].values if dim in ds.coords else np.arange(array.sizes[dim])
        if options.level is not None and dim != time and is_level(ds, str(dim)):
            number = options.level if labels.dtype.kind in "OU" else float(options.level)
            place = int(places([number], labels)[0])
            if place < 0:
                raise ValueError(f"there is no level {options.level}; there are {labels.tolist()}")
        elif options.time is not None and dim == time:
            place = _time(options.time, ds[dim].values)
        array = array.isel({dim: place})
        label = labels[place]
        there = dim in ds.coords
        units = str(ds[dim].attrs.get("units", "")) if there else ""
        shown = (in_hours(ds[dim], label) if there else None) or f"{stamp(label)} {units}"
        said.append(f"{dim} {shown}".strip())
    return array, said


def _time(text: str, times: Any) -> int:
    import numpy as np

    from geoattn.xarray.schema.times import stamp

    if times.dtype.kind == "M":
        try:
            found = np.flatnonzero(times == np.datetime64(text, "ns"))
        except ValueError:
            raise ValueError(f"{text!r} is no time; write it as 2020-01-31T12") from None
    else:
        found = np.flatnonzero([stamp(t).replace(" ", "T").startswith(text) for t in times])
    if not len(found):
        raise ValueError(f"there is no time {text}; there are {stamp(times[0])} to {stamp(times[-1])}")
    return int(found[0])


def _quantity(array: Any) -> str:
    units = f" ({array.attrs['units']})" if array.attrs.get("units") else ""
    return f"{array.attrs.get('long_name', array.name)}{units}"


def _map(array: Any, found: Any, title: str, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from geoattn.plot import lat_lon_map, save
    from geoattn.plot.figures import new

    values = array.transpose(*found.dims).values.reshape(found.grid.shape)
    if not np.isfinite(values.astype(float)).any():
        raise ValueError(
            f"{title}: every value is missing or infinite, and a map would be empty. Draw another time, "
            "--time TIME, level or place along another dimension, --level LEVEL, --select DIM=NUMBER"
        )
    axes = new(7.5, 3.6).subplots()
    lat_lon_map(axes, found.grid, values, _quantity(array))
    axes.set_title(title)
    save(axes.figure, options.output)
    return {"title": title, "values": values.tolist()}


def _series(array: Any, found: Any, time: str | None, title: str, options: argparse.Namespace) -> Any:
    import numpy as np

    from geoattn.plot import curves

    if time is None or time not in array.dims:
        raise ValueError(f"a series is along time, and {options.variable!r} has the dimensions {array.dims}")
    taken = _at_point if options.point else _over_grid
    line, label = taken(array, found, time, title, options)
    if gaps := int(np.isnan(line).sum()):
        label += f", none at {gaps} of {len(line)} times"
    times = array[time].values
    shown = times if times.dtype.kind in "Miuf" else np.arange(len(times))
    curves(options.output, time, {_quantity(array): {_in_legend(f"{title} {label}"): (shown, line)}})
    return {"title": title, "of": label, "times": times.astype(str).tolist(), "values": line.tolist()}


def _in_legend(words: str) -> str:
    """In lines that are no wider than the panel."""
    from textwrap import fill

    return fill(words, 36)


def _at_point(array: Any, found: Any, time: str, title: str, options: argparse.Namespace) -> tuple[Any, str]:
    """The values at the point that is nearest, and where it is."""
    import numpy as np

    try:
        lat, lon = map(float, options.point.split(","))
    except ValueError:
        raise ValueError(f"{options.point!r} is no point: write it as LAT,LON in degrees") from None
    there = np.radians([lat, lon])
    place = np.array(
        [np.cos(there[0]) * np.cos(there[1]), np.cos(there[0]) * np.sin(there[1]), np.sin(there[0])]
    )
    near = found.grid.xyz.reshape(-1, 3) @ place
    nearest = int(near.argmax())
    line = _at(array, found, nearest)
    if not np.isfinite(line).any():
        known, _ = _counts(array, found, time, title)
        other = int(np.where(known == known.max(), near, -np.inf).argmax())
        raise ValueError(
            f"{title} has no value at {_named(found, nearest)}, the point nearest to {options.point}: the "
            f"nearest with values is --point={','.join(f'{value:g}' for value in _lat_lon(found, other))}"
        )
    return line, f"at {_named(found, nearest)}"


def _lat_lon(found: Any, point: int) -> tuple[float, float]:
    return float(found.grid.lat.reshape(-1)[point]), float(found.grid.lon.reshape(-1)[point])


def _named(found: Any, point: int) -> str:
    lat, lon = _lat_lon(found, point)
    return f"{lat:g}°N {lon:g}°E"


def _at(array: Any, found: Any, point: int) -> Any:
    """All values of one point of the grid."""
    import numpy as np

    index = np.unravel_index(point, [array.sizes[dim] for dim in found.dims])
    return array.isel(dict(zip(found.dims, map(int, index), strict=True))).values.astype(float)


def _over_grid(array: Any, found: Any, time: str, title: str, options: argparse.Namespace) -> tuple[Any, str]:
    """The means over the points that have a value whenever any point has one; in words, which these are."""
    import numpy as np

    from geoattn.xarray import weights

    area = weights(array.to_dataset(name="values"), **stores.recognition(options)).values.reshape(-1)
    known, dates = _counts(array, found, time, title)
    if known.max() < dates:
        some = ",".join(f"{value:g}" for value in _lat_lon(found, int(known.argmax())))
        raise ValueError(
            f"{title}: no point has a value at all times, so that their mean would be of other points at "
            f"other times. Draw one point, such as --point={some}, which has the most values"
        )
    held = known == dates
    line = np.full(array.sizes[time], np.nan)
    for place, values in enumerate(_steps(array, found, time)):
        if np.isfinite(values).any():
            line[place] = (values[held] * area[held]).sum() / area[held].sum()
    if held.all():
        return line, "mean over the grid"
    share = 100 * area[held].sum() / area.sum()
    return line, f"mean over the points that are there at all times ({share:.3g} % of the area)"


def _steps(array: Any, found: Any, time: str) -> Any:
    """The fields of all times, one after another, over the points of the grid."""
    for place in range(array.sizes[time]):
        yield array.isel({time: place}).transpose(*found.dims).values.reshape(-1).astype(float)


def _counts(array: Any, found: Any, time: str, title: str) -> tuple[Any, int]:
    """At how many times each point of the grid has a value, and at how many any has one."""
    import numpy as np

    known, dates = np.zeros(found.grid.size, int), 0
    for values in _steps(array, found, time):
        there = np.isfinite(values)
        known += there
        dates += int(there.any())
    if not dates:
        raise ValueError(
            f"{title}: every value is missing or infinite at all times. Draw another level, --level LEVEL, "
            "or place along another dimension, --select DIM=NUMBER"
        )
    return known, dates


def _spectrum(array: Any, found: Any, title: str, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from geoattn.plot import curves
    from geoattn.xarray.scores.spectra import zonal_spectrum

    array = array.astype(float)
    missing = int((~np.isfinite(array.values)).sum())
    spectrum = zonal_spectrum(array)  # another grid is refused first
    if missing:
        name = options.variable
        raise ValueError(
            f"{title}: {missing:,} of {array.size:,} values are missing or infinite, and waves along "
            f"parallels need them all. Fill them first, ds.fillna({{{name!r}: 0}}).to_zarr('filled.zarr'), "
            "by a value that makes sense, or draw a map or a series"
        )
    waves, power = spectrum.wavenumber.values[1:], spectrum.values[1:]
    if not (power > 0).any():
        raise ValueError(
            f"{title}: there is one value along each parallel, and there are no waves. Draw a map, or "
            "another time, --time TIME"
        )
    units = f", ({array.attrs['units']})²" if array.attrs.get("units") else ""
    panels = {f"mean square{units}": {_in_legend(title): (waves, power)}}
    curves(options.output, "zonal wavenumber", panels, logarithmic="xy")
    return {"title": title, "wavenumber": waves.tolist(), "mean_square": power.tolist()}
