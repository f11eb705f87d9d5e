"""``geoattn score``: forecasts against the truth, by WeatherBench 2's definitions and in its layout."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import scores, stores, tables

#: scores that are taken of a forecast, or of the mean of its members
OF_MEANS = ("rmse", "mae", "bias", "relative_l2", "acc")


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
    add(
        "--persistence",
        action="store_true",
        help="score the forecast that nothing changes beside it; dashed in the picture",
    )
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
    asked = _scores(forecast, options, members)
    shared: dict[str, Any] = {
        "weights": None if options.weights == "quadrature" else options.weights,
        "mask": options.mask,
        "climatology": open_stores(options.climatology) if options.climatology else None,
        "regions": regions(forecast, options.regions, options.weights, **stores.recognition(options)),
    }
    jobs = [ScoreJob(asked, forecast, truth, ensemble_dim=members, **shared)]
    if options.persistence:
        single = {name: one for name, one in _scores(forecast, options, "").items() if name in OF_MEANS}
        jobs.append(ScoreJob(single, _still(forecast, truth, members), truth, **shared))
    found, *still = _run(jobs, options)
    for of_persistence in still:
        found |= {f"{name} of persistence": score for name, score in of_persistence.items()}
    spectra = {name: found.pop(name) for name in list(found) if name.startswith("spectrum")}
    spectra = scores.with_waves(spectra, jobs[0].levels)
    whole = scores.together(found)
    rows, header = scores.rows_of(whole)
    print(f"{forecast.geoattn.grid!r}; weights: {options.weights}")
    print(tables.table(header, rows))
    scores.save(whole, spectra, options)
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
