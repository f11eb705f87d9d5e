"""What ``geoattn score`` shows and keeps: rows of a table, files of the scores, and pictures."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import stores

#: lead times that a table shows
COLUMNS = 8


def together(found: dict[str, Any]) -> Any:
    """All scores as one data set with the dimension ``metric``."""
    import xarray

    whole = xarray.concat(
        list(found.values()), "metric", data_vars="all", coords="minimal", combine_attrs="drop_conflicts"
    )
    whole = whole.assign_coords(metric=list(found))
    for coordinate in whole.coords.values():  # what a file said of how it writes them
        kept = ("standard_name", "long_name", "units", "positive")
        dated = coordinate.dtype.kind in "mM"
        coordinate.attrs = {k: v for k, v in coordinate.attrs.items() if k in kept[: 2 if dated else None]}
        coordinate.encoding = {}
    return whole


def rows_of(whole: Any) -> tuple[list[tuple[Any, ...]], list[str]]:
    """A row for each variable, level, region and metric; a column for each of some lead times."""
    import numpy as np

    from geoattn.xarray.scores.lead_times import lead_time

    lead = lead_time(whole)
    shown: list[int] = [0]
    header = ["score"]
    if lead in whole.dims:
        count = whole.sizes[lead]
        shown = sorted(set(np.linspace(0, count - 1, min(count, COLUMNS)).round().astype(int).tolist()))
        header = [f"{_hours(whole[lead].values[i]):g} h" for i in shown]
    rows: list[tuple[Any, ...]] = []
    for name, array in whole.data_vars.items():
        beside = [dim for dim in array.dims if dim not in ("metric", "region", lead)]
        for place in np.ndindex(*(array.sizes[dim] for dim in beside)):
            at = dict(zip(beside, place, strict=True))
            labels = [str(array[d].values[i]) if d in array.coords else str(i) for d, i in at.items()]
            for region in whole.region.values:
                for metric in whole.metric.values:
                    values = array.isel(at).sel(region=region, metric=metric)
                    numbers = np.atleast_1d(values.values)[shown].tolist()
                    if all(number != number for number in numbers):
                        continue  # a level that the variable lacks
                    no_units = str(metric).split()[0] in ("acc", "relative_l2")
                    units = "" if no_units else str(array.attrs.get("units", ""))
                    rows.append((" ".join([str(name), *labels]), units, region, metric, *numbers))
    return rows, ["variable", "units", "region", "metric", *header]


def _hours(length: Any) -> float:
    import numpy as np

    return float(np.timedelta64(length) / np.timedelta64(1, "h"))


def with_waves(spectra: dict[str, Any], levels: dict[str, tuple[Any, list[Any]]]) -> dict[str, Any]:
    """Spectra without the variables that have none, which are told with the reason.

    ``levels`` has the dimension of levels, and those of a variable, where others have more.
    """
    kept = {}
    for of, ds in spectra.items():
        gone = []
        for name, array in ds.data_vars.items():
            dim, own = levels.get(str(name), (None, []))
            known = (array.sel({dim: own}) if dim in array.dims else array).isnull().any("wavenumber")
            if bool(known.all()):
                gone.append(str(name))
            elif bool(known.any()):
                print(f"The {of} has gaps: {name} has missing values at some levels or times. {_WAVES}")
        if gone:
            print(f"The {of} leaves out {', '.join(gone)}, which has missing values. {_WAVES}")
        if len(gone) < len(ds.data_vars):
            kept[of] = ds.drop_vars(gone)
    return kept


_WAVES = "Waves along parallels need every value: fill them first, ds.fillna(…).to_zarr(…)"


def save(scores: Any, spectra: dict[str, Any], options: argparse.Namespace) -> None:
    from pathlib import Path

    from geoattn._files import whole

    if options.output:
        with whole(options.output) as partial:
            scores.to_netcdf(partial)
        print(f"The scores are in {options.output}")
    if options.picture:
        _draw(Path(options.picture), scores, spectra)
    result = {"scores": _plain(scores), "spectra": {name: _plain(ds) for name, ds in spectra.items()}}
    stores.save_json(options, result)


def _plain(ds: Any) -> dict[str, Any]:
    """A data set as JSON types: lengths of time in hours."""

    def values(array: Any) -> Any:
        found = array.values
        if found.dtype.kind == "m":
            return [_hours(length) for length in found.ravel()]
        if found.dtype.kind == "M":
            return found.astype(str).tolist()
        return found.tolist()

    return {
        "coordinates": {str(name): values(c) for name, c in ds.coords.items()},
        "variables": {
            str(name): {"dims": list(v.dims), "units": v.attrs.get("units", ""), "values": values(v)}
            for name, v in ds.data_vars.items()
        },
    }


def _draw(path: Any, whole: Any, spectra: dict[str, Any]) -> None:
    """The first metric against lead time, and spectra at the last, of up to four variables and levels.

    Persistence, where it was scored by that metric, is dashed.
    """
    from geoattn.plot import curves
    from geoattn.xarray.scores.lead_times import lead_time

    lead, metric = lead_time(whole), str(whole.metric.values[0])
    shown = [name for name in (metric, f"{metric} of persistence") if name in whole.metric.values]
    panels: dict[str, Any] = {}
    dashed: dict[str, str] = {}
    for label, array in _fields(whole.sel(metric=shown)):
        if lead not in array.dims:
            raise ValueError(
                f"a picture shows {metric} against lead time, and the forecast has no lead times"
            )
        hours = [_hours(length) for length in array[lead].values]
        units = f" ({array.attrs['units']})" if array.attrs.get("units") else ""
        lines: dict[str, Any] = {}
        panels[f"{metric} of {label}{units}"] = lines
        for region in whole.region.values:
            of_model, *of_persistence = array.sel(region=region).transpose("metric", lead).values
            lines[str(region)] = (hours, of_model)
            for values in of_persistence:
                lines[f"{region}, persistence"] = (hours, values)
                dashed[f"{region}, persistence"] = str(region)
    curves(path, "lead time (hours)", panels, dashed=dashed)
    print(f"The picture is {path}")
    if not spectra:
        return
    panels = {}
    for of, ds in spectra.items():
        last = ds.isel({lead: -1}) if lead in ds.dims else ds
        for label, array in _fields(last):
            waves, power = array.wavenumber.values[1:], array.values[1:]
            if (power > 0).any():  # one value along each parallel has no waves
                panels.setdefault(f"mean square of {label}", {})[of.rpartition(" ")[2]] = (waves, power)
    if not panels:
        print("There is no picture of spectra: no variable has waves along parallels at the last lead time")
        return
    beside = path.with_name(f"{path.stem}-spectrum{path.suffix}")
    curves(beside, "zonal wavenumber", panels, logarithmic="xy")
    print(f"The spectra at the last lead time are in {beside}")


def _fields(ds: Any, most: int = 4) -> list[tuple[str, Any]]:
    """Variables, each of its levels by itself, with what they are called."""
    import numpy as np

    from geoattn.xarray.scores.lead_times import lead_time

    found = []
    for name, array in ds.data_vars.items():
        beside = [d for d in array.dims if d not in ("metric", "region", "wavenumber", lead_time(ds))]
        for place in np.ndindex(*(array.sizes[dim] for dim in beside)):
            at = dict(zip(beside, place, strict=True))
            labels = [str(array[d].values[i]) if d in array.coords else str(i) for d, i in at.items()]
            one = array.isel(at)
            if not bool(one.isnull().all()):
                found.append((" ".join([str(name), *labels]), one))
    return found[:most]
