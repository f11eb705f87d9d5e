"""``geoattn score``: forecasts against the truth, by WeatherBench 2's definitions and in its layout."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import stores, tables

#: scores that are taken of a forecast, or of the mean of its members
OF_MEANS = ("rmse", "mae", "bias", "relative_l2", "acc")
#: lead times that a table shows
COLUMNS = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Score forecasts in WeatherBench 2's layout: time, prediction_timedelta, level, latitude and "
        "longitude, and realization of ensembles, whose mean is scored, with the CRPS beside it. Any grid "
        "and any names that are recognised will do."
    )
    stores.add_stores(parser, "of later initial times")
    add = parser.add_argument
    add("--truth", nargs="+", required=True, metavar="STORE", help="store or stores of what came true")
    add(
        "--scores",
        nargs="+",
        choices=(*OF_MEANS, "crps"),
        help="which scores (rmse, mae and bias; acc with a climatology; crps of ensembles)",
    )
    add("--climatology", metavar="STORE", help="what anomalies are of, by dayofyear and perhaps hour")
    add("--variables", nargs="+", metavar="NAME", help="variables to score (all on the grid)")
    add("--levels", nargs="+", type=float, metavar="LEVEL", help="levels to score (all)")
    add(
        "--regions",
        nargs="+",
        default=["global"],
        metavar="REGION",
        help="WeatherBench 2's, such as tropics and europe, or name=south:north,west:east (global)",
    )
    add(
        "--weights",
        choices=("quadrature", "area"),
        default="quadrature",
        help="what points are weighed by; WeatherBench 2 takes area (%(default)s)",
    )
    add(
        "--mask",
        choices=("truth", "both"),
        help="leave out points where the truth has no value, or where either has none (refuse them)",
    )
    add("--ensemble-dim", default="realization", help="the dimension of members (%(default)s)")
    add("--persistence", action="store_true", help="score the forecast that nothing changes beside it")
    add("--spectra", action="store_true", help="take the spectra along parallels of forecast and truth too")
    add("--output", metavar="FILE", help="netCDF file of the scores, by metric, region, lead time and level")
    add("--picture", metavar="FILE", help="picture of the first score, and of spectra beside it")
    stores.add_cluster(parser)
    stores.add_recognition(parser)
    stores.add_json(parser)


def run(options: argparse.Namespace) -> int:
    from geoattn.xarray.scores.jobs import ScoreJob
    from geoattn.xarray.scores.regions import regions
    from geoattn.xarray.stores.joined import open_stores

    forecast = _chosen(open_stores(options.stores), options)
    truth = open_stores(options.truth)
    members = options.ensemble_dim if options.ensemble_dim in forecast.dims else ""
    scores = _scores(forecast, options, members)
    shared: dict[str, Any] = {
        "weights": None if options.weights == "quadrature" else options.weights,
        "mask": options.mask,
        "climatology": open_stores(options.climatology) if options.climatology else None,
        "regions": regions(forecast, options.regions, options.weights, **stores.recognition(options)),
    }
    jobs = [ScoreJob(scores, forecast, truth, ensemble_dim=members, **shared)]
    if options.persistence:
        single = {name: one for name, one in _scores(forecast, options, "").items() if name in OF_MEANS}
        jobs.append(ScoreJob(single, _still(forecast, truth, members), truth, **shared))
    found, *still = _run(jobs, options)
    for of_persistence in still:
        found |= {f"{name} of persistence": score for name, score in of_persistence.items()}
    spectra = {name: found.pop(name) for name in list(found) if name.startswith("spectrum")}
    whole = _together(found)
    rows, header = _rows(whole)
    print(f"{forecast.geoattn.grid!r}; weights: {options.weights}")
    print(tables.table(header, rows))
    _save(whole, spectra, options)
    return 0


def _run(jobs: list[Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of jobs, with one bar for all."""
    from geoattn.xarray.stores.jobs import run as run_job
    from geoattn.xarray.stores.progress import bar

    done, whole = 0, sum(len(job.pieces) for job in jobs)
    with stores.cluster(options) as client, bar("block") as tell:

        def count(new: int) -> None:
            nonlocal done
            done += new
            tell(done, whole)

        return [run_job(job, client, count) for job in jobs]


def _still(forecast: Any, truth: Any, members: str) -> Any:
    """The truth at the initial times, for every lead time; lazily where dask is installed."""
    from importlib.util import find_spec

    from geoattn.xarray.scores import metrics
    from geoattn.xarray.scores.lead_times import initial_time

    time = initial_time(truth)
    if find_spec("dask") is not None and time is not None:
        truth = truth.chunk({time: 1})
    return metrics.persistence(forecast.isel({members: 0}, drop=True) if members else forecast, truth)


def _chosen(ds: Any, options: argparse.Namespace) -> Any:
    """The variables and levels that are asked for."""
    from geoattn.xarray.schema.dimensions import is_level
    from geoattn.xarray.schema.levels import places
    from geoattn.xarray.schema.schema import describes_grid

    if options.variables:
        if unknown := [name for name in options.variables if name not in ds.data_vars]:
            raise ValueError(f"the forecast has no {unknown}; it has {list(ds.data_vars)}")
        keep = {*options.variables, *(name for name in ds.data_vars if describes_grid(ds, name))}
        ds = ds[[name for name in ds.data_vars if name in keep]]
    if not options.levels:
        return ds
    dims = [str(dim) for dim in ds.dims if dim in ds.coords and is_level(ds, str(dim))]
    if len(dims) != 1:
        raise ValueError(f"levels are chosen along one dimension, and the forecast has {dims or 'none'}")
    found = places(options.levels, ds[dims[0]].values)
    if (found < 0).any():
        absent = [level for level, place in zip(options.levels, found, strict=True) if place < 0]
        raise ValueError(f"the forecast has no levels {absent}; it has {ds[dims[0]].values.tolist()}")
    return ds.isel({dims[0]: found})


def _scores(forecast: Any, options: argparse.Namespace, members: str) -> dict[str, Any]:
    """Name → score, as they are asked for."""
    from geoattn.grids import recognise
    from geoattn.xarray.scores import metrics
    from geoattn.xarray.scores.spectra import spectrum_score

    names = list(options.scores or ["rmse", "mae", "bias"])
    if not options.scores and options.climatology:
        names.append("acc")
    if not options.scores and members and forecast.sizes[members] > 1:
        names.append("crps")
    if "acc" in names and not options.climatology:
        raise ValueError("anomalies are of a climatology: give its store, --climatology STORE")
    if "crps" in names and members == "" and options.ensemble_dim not in forecast.dims:
        raise ValueError(
            f"the CRPS is of members, and the forecast has no dimension {options.ensemble_dim!r}: its "
            f"dimensions are {tuple(forecast.dims)}. Name it: ensemble_dim=…"
        )
    found = {}
    for name in names:
        if name == "crps" and not members:
            continue
        if name == "crps":
            found[name] = metrics.crps_score(members, fair=forecast.sizes[members] > 1)
        else:
            one = getattr(metrics, name.upper())
            found[name] = metrics.of_the_mean(one, members) if members else one
    if options.spectra:
        report = recognise(forecast, **stores.recognition(options))
        for of in ("forecast", "truth"):
            one = spectrum_score(of, report)
            found[f"spectrum of the {of}"] = one
    return found


def _together(found: dict[str, Any]) -> Any:
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


def _rows(whole: Any) -> tuple[list[tuple[Any, ...]], list[str]]:
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


def _save(scores: Any, spectra: dict[str, Any], options: argparse.Namespace) -> None:
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
    """The first metric against lead time, and spectra at the last, of up to four variables and levels."""
    from geoattn.plot import curves
    from geoattn.xarray.scores.lead_times import lead_time

    lead, metric = lead_time(whole), str(whole.metric.values[0])
    panels: dict[str, Any] = {}
    for label, array in _fields(whole.isel(metric=0)):
        if lead not in array.dims:
            raise ValueError(
                f"a picture shows {metric} against lead time, and the forecast has no lead times"
            )
        hours = [_hours(length) for length in array[lead].values]
        units = f" ({array.attrs['units']})" if array.attrs.get("units") else ""
        panels[f"{metric} of {label}{units}"] = {
            str(region): (hours, array.sel(region=region).values) for region in whole.region.values
        }
    curves(path, "lead time (hours)", panels)
    print(f"The picture is {path}")
    if not spectra:
        return
    panels = {}
    for of, ds in spectra.items():
        last = ds.isel({lead: -1}) if lead in ds.dims else ds
        for label, array in _fields(last):
            panels.setdefault(f"mean square of {label}", {})[of.rpartition(" ")[2]] = (
                array.wavenumber.values[1:],
                array.values[1:],
            )
    beside = path.with_name(f"{path.stem}-spectrum{path.suffix}")
    curves(beside, "zonal wavenumber", panels, logarithmic="xy")
    print(f"The spectra at the last lead time are in {beside}")


def _fields(ds: Any, most: int = 4) -> list[tuple[str, Any]]:
    """Variables, each of its levels by itself, with what they are called."""
    import numpy as np

    from geoattn.xarray.scores.lead_times import lead_time

    found = []
    for name, array in ds.data_vars.items():
        beside = [d for d in array.dims if d not in ("region", "wavenumber", lead_time(ds))]
        for place in np.ndindex(*(array.sizes[dim] for dim in beside)):
            at = dict(zip(beside, place, strict=True))
            labels = [str(array[d].values[i]) if d in array.coords else str(i) for d, i in at.items()]
            one = array.isel(at)
            if not bool(one.isnull().all()):
                found.append((" ".join([str(name), *labels]), one))
    return found[:most]
