"""``geoattn plot``: a map, a series in time, or a spectrum of a store."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import stores

KINDS = ("map", "series", "spectrum")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw one variable of a store: a map of one time and level; the mean over the grid, or the nearest "
        "point, against time; or the spectrum along parallels."
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
        result = _map(array, found, title, options.output)
    elif options.kind == "series":
        result = _series(array, found, time, title, options)
    else:
        result = _spectrum(array, title, options.output)
    print(f"The {options.kind} of {title} is {options.output}")
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


def _map(array: Any, found: Any, title: str, output: str) -> dict[str, Any]:
    from geoattn.plot import lat_lon_map, save
    from geoattn.plot.figures import new

    values = array.transpose(*found.dims).values.reshape(found.grid.shape)
    axes = new(7.5, 3.6).subplots()
    lat_lon_map(axes, found.grid, values, _quantity(array))
    axes.set_title(title)
    save(axes.figure, output)
    return {"title": title, "values": values.tolist()}


def _series(array: Any, found: Any, time: str | None, title: str, options: argparse.Namespace) -> Any:
    import numpy as np
    import xarray

    from geoattn.plot import curves
    from geoattn.xarray import weights

    if time is None or time not in array.dims:
        raise ValueError(f"a series is along time, and {options.variable!r} has the dimensions {array.dims}")
    if options.point:
        try:
            lat, lon = map(float, options.point.split(","))
        except ValueError:
            raise ValueError(f"{options.point!r} is no point: write it as LAT,LON in degrees") from None
        there = np.radians([lat, lon])
        place = np.array(
            [np.cos(there[0]) * np.cos(there[1]), np.cos(there[0]) * np.sin(there[1]), np.sin(there[0])]
        )
        nearest = int((found.grid.xyz.reshape(-1, 3) @ place).argmax())
        lat, lon = (float(v.reshape(-1)[nearest]) for v in (found.grid.lat, found.grid.lon))
        index = np.unravel_index(nearest, [array.sizes[dim] for dim in found.dims])
        line = array.isel(dict(zip(found.dims, map(int, index), strict=True))).values
        label = f"at {lat:g}°N {lon:g}°E"
    else:
        area = weights(array.to_dataset(name="values"), **stores.recognition(options))
        share = area / area.sum()
        steps = (array.isel({time: i}) for i in range(array.sizes[time]))
        line = np.array([float(xarray.dot(step, share, dim=found.dims)) for step in steps])
        label = "mean over the grid"
    times = array[time].values
    shown = times if times.dtype.kind in "Miuf" else np.arange(len(times))
    curves(options.output, time, {_quantity(array): {f"{title} {label}": (shown, line)}})
    return {"title": title, "of": label, "times": times.astype(str).tolist(), "values": line.tolist()}


def _spectrum(array: Any, title: str, output: str) -> dict[str, Any]:
    from geoattn.plot import curves
    from geoattn.xarray.scores.spectra import zonal_spectrum

    found = zonal_spectrum(array.astype(float))
    waves, power = found.wavenumber.values[1:], found.values[1:]
    units = f", ({array.attrs['units']})²" if array.attrs.get("units") else ""
    curves(output, "zonal wavenumber", {f"mean square{units}": {title: (waves, power)}}, logarithmic="xy")
    return {"title": title, "wavenumber": waves.tolist(), "mean_square": power.tolist()}
