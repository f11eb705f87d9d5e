"""Scores of forecasts as data sets, by the definitions of WeatherBench 2.

S. Rasp et al. (2024), WeatherBench 2: A benchmark for the next generation of data-driven global weather
models, Journal of Advances in Modeling Earth Systems 16, e2023MS004019, section 3.

Every score takes ``forecast`` and ``truth``, both Datasets or both DataArrays, and

- finds the truth at the valid times of the forecast, ``time + prediction_timedelta``, and at its levels;
- averages over the globe with the weights of the recognised grid, then over initial times;
- keeps the other dimensions, such as lead times and levels, and refuses missing values unless a mask
  says which points count: nothing is skipped in silence. Variables may have different levels: each is
  scored on its own, and NaN on those that only others have.

A region is scored by a mask, or by slices of forecast and truth alike, ``ds.sel(latitude=slice(60, 30))``:
its points are then weighted by their own cells, between the midpoints of the rows and columns.

Parameters that all of them share:

weights
    ``"quadrature"``, those of the recognised grid, the default; ``"area"``, the areas of its cells, as
    WeatherBench 2 takes them; or a DataArray over the grid's dimensions. Results say which they took, in the
    attribute ``weights``.
mask
    True at the points that count: a DataArray, or a Dataset with one per variable, static or with the
    truth's times. ``"truth"``: those where the truth has a value; ``"both"``: those where the forecast has
    one too, as where masks change in time. A mean is over the points that count.
over
    Dimensions to average over after the globe; ``()`` keeps every initial time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar, cast

import numpy as np
import xarray

from geoattn.xarray.schema.times import are_dates, dating
from geoattn.xarray.schema.units import check_units
from geoattn.xarray.schema.values import check_numbers, refuse_labels
from geoattn.xarray.scores.jobs import Averages, Score, ScoreJob, as_dataset, given
from geoattn.xarray.scores.lead_times import LEAD, TIME, decoded, initial_time, lead_time, valid_times
from geoattn.xarray.scores.pairs import Pair, Pairing, at_times, fields_of
from geoattn.xarray.stores.jobs import run

#: name → the function that makes the job of a score from the score's arguments
JOBS: dict[str, Callable[..., ScoreJob]] = {}

Scoring = TypeVar("Scoring", bound=Callable[..., Any])


def _scoring(make: Scoring) -> Scoring:
    """The score, of a function that makes its job: what is lazy of dask is computed by dask, in pieces."""
    JOBS[make.__name__] = make

    @wraps(make)
    def score(*arguments: Any, **options: Any) -> Any:
        (result,) = run(make(*arguments, **options)).values()
        return result

    return cast(Scoring, score)


def _squares(pair: Pair, average: Averages) -> xarray.Dataset:
    return average(_difference(pair) ** 2, pair)


def _absolute(pair: Pair, average: Averages) -> xarray.Dataset:
    return average(abs(_difference(pair)), pair)


def _mean_difference(pair: Pair, average: Averages) -> xarray.Dataset:
    return average(_difference(pair), pair)


def _ratio(pair: Pair, average: Averages) -> xarray.Dataset:
    sizes = average(_float64(pair.truth) ** 2, pair)
    if vanishing := [name for name in sizes if bool((sizes[name] <= 0).any())]:
        raise ValueError(f"the truth of {vanishing} is 0 everywhere at some time: take rmse")
    return (average(_difference(pair) ** 2, pair) / sizes) ** 0.5


def _correlation(pair: Pair, average: Averages) -> xarray.Dataset:
    ours = _float64(pair.forecast) - _float64(pair.climatology)
    theirs = _float64(pair.truth) - _float64(pair.climatology)
    norms = np.sqrt(average(ours**2, pair) * average(theirs**2, pair))
    if vanishing := [name for name in norms if bool((norms[name] <= 0).any())]:
        raise ValueError(f"anomalies of {vanishing} vanish at some time: it is the climatology")
    return average(ours * theirs, pair) / norms


RMSE = Score("the squared error", _squares, root=True)
MAE = Score("the error", _absolute)
BIAS = Score("the error", _mean_difference)
RELATIVE_L2 = Score("the squared error", _ratio, units=None)
ACC = Score("the anomaly", _correlation, units=None)


def of_the_mean(score: Score, ensemble_dim: str) -> Score:
    """The same score of the mean of the members along a dimension."""
    return dataclasses.replace(score, of_samples=partial(_of_the_mean, score, ensemble_dim))


def _of_the_mean(score: Score, ensemble_dim: str, pair: Pair, average: Averages) -> xarray.Dataset:
    mean = pair.forecast.mean(ensemble_dim, skipna=False)
    return score.of_samples(dataclasses.replace(pair, forecast=mean), average)


def crps_score(ensemble_dim: str, fair: bool) -> Score:
    """The CRPS of the members along a dimension; see :func:`crps`."""
    return Score("the error", partial(_crps, ensemble_dim, fair))


def _crps(ensemble_dim: str, fair: bool, pair: Pair, average: Averages) -> xarray.Dataset:
    ensemble = _float64(pair.forecast)
    skill = abs(ensemble - _float64(pair.truth)).mean(ensemble_dim, skipna=False)
    spread = ensemble.map(lambda values: _mean_distance(values, ensemble_dim, fair))
    return average(skill - spread / 2, pair)


def _lengths(u: str, v: str, pair: Pair, average: Averages) -> xarray.Dataset:
    squares = average(_difference(pair) ** 2, pair)
    return xarray.Dataset({"wind_vector": squares[u] + squares[v]})


@_scoring
def rmse(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Root-mean-square error: the root is taken after the mean over area and initial times.

    See :mod:`geoattn.xarray.metrics` for the parameters.
    """
    return ScoreJob({"rmse": RMSE}, forecast, truth, weights=weights, mask=mask, over=over)


@_scoring
def mae(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Mean absolute error. See :mod:`geoattn.xarray.metrics` for the parameters."""
    return ScoreJob({"mae": MAE}, forecast, truth, weights=weights, mask=mask, over=over)


@_scoring
def bias(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Mean of forecast minus truth. See :mod:`geoattn.xarray.metrics` for the parameters."""
    return ScoreJob({"bias": BIAS}, forecast, truth, weights=weights, mask=mask, over=over)


@_scoring
def relative_l2(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Norm of the error over that of the truth, ‖f − t‖ / ‖t‖, of each initial time, averaged over them.

    Norms are root-mean-squares over the globe. See :mod:`geoattn.xarray.metrics` for the parameters.
    """
    return ScoreJob({"relative_l2": RELATIVE_L2}, forecast, truth, weights=weights, mask=mask, over=over)


@_scoring
def acc(
    forecast: Any, truth: Any, climatology: Any, *, weights: Any = None, mask: Any = None, over: Any = None
) -> Any:
    """Anomaly correlation coefficient, of each initial time, averaged over initial times.

    Anomalies are differences to the climatology of the valid time's day of year, and its hour if the
    climatology has hours. They are not centred.

    Parameters
    ----------
    climatology
        As :func:`climatology` makes it: over ``dayofyear``, perhaps ``hour``, levels and the grid. One
        without either, such as a mean over all time, is the same for every valid time.
    others
        See :mod:`geoattn.xarray.metrics`.
    """
    as_dataset(climatology)  # or refused
    return ScoreJob(
        {"acc": ACC}, forecast, truth, weights=weights, mask=mask, over=over, climatology=climatology
    )


@_scoring
def wind_vector_rmse(
    forecast: xarray.Dataset,
    truth: xarray.Dataset,
    u: str = "u_component_of_wind",
    v: str = "v_component_of_wind",
    *,
    weights: Any = None,
    mask: Any = None,
    over: Any = None,
) -> Any:
    """Root-mean-square length of the error vector of the wind, the root after the mean over time.

    Parameters
    ----------
    u, v
        Names of the components.
    others
        See :mod:`geoattn.xarray.metrics`.
    """
    if not isinstance(forecast, xarray.Dataset):
        raise TypeError(f"the wind has two components: give data sets, got {type(forecast).__name__}")
    if u == v:
        raise ValueError(f"u and v must be two components of the wind, got {u!r} twice")
    for name in (u, v):
        if name not in forecast:
            raise ValueError(f"the forecast has no {name!r}, only {list(forecast.data_vars)}: name u and v")

    units = [str(forecast[name].attrs.get("units", "")) for name in (u, v)]
    check_units(v, units[1], units[0], "the forecast", repr(u), f"forecast[{v!r}]")
    score = Score("the squared error", partial(_lengths, u, v), root=True, units=u)
    return _OfTheWind(
        {"wind_vector_rmse": score}, forecast[[u, v]], truth, weights=weights, mask=mask, over=over
    )


class _OfTheWind(ScoreJob):
    """One array, not a data set."""

    def finish(self, part: Any) -> dict[str, Any]:
        return {name: result["wind_vector"] for name, result in super().finish(part).items()}


@_scoring
def crps(
    forecast: Any,
    truth: Any,
    *,
    ensemble_dim: str = "realization",
    fair: bool = True,
    weights: Any = None,
    mask: Any = None,
    over: Any = None,
) -> Any:
    """Continuous ranked probability score of an ensemble: E|X − y| − E|X − X′| / 2.

    Parameters
    ----------
    ensemble_dim
        The dimension of the members.
    fair
        True: the second mean is over pairs of different members, which makes the score independent of
        the size of the ensemble in expectation (C. Ferro 2014, QJRMS 140, 1917–1923); needs two members.
        False: over all pairs, the score of the ensemble's own step function.
    others
        See :mod:`geoattn.xarray.metrics`.
    """
    members = as_dataset(forecast).sizes.get(ensemble_dim, 0)
    if fair and members == 1:
        raise ValueError("the fair CRPS needs at least two members, there is one: fair=False")
    return ScoreJob(
        {"crps": crps_score(ensemble_dim, fair)},
        forecast,
        truth,
        weights=weights,
        mask=mask,
        over=over,
        ensemble_dim=ensemble_dim,
    )


def persistence(forecast: Any, truth: Any) -> Any:
    """The forecast that nothing changes: the truth at the initial times, for every lead time.

    Parameters
    ----------
    forecast
        Dataset or DataArray whose initial times, lead times, levels, points and variables are taken.
    truth
        Of the same type, with the variables at those levels, points and initial times.

    Raises
    ------
    ValueError
        If the forecast has no initial or lead times, or the truth lacks a variable, a level or an initial
        time, or lies on another grid.
    """
    sets, arrays = given(forecast, truth)
    ours = decoded(sets["forecast"], "forecast", "forecast" in arrays)
    time, lead, valid = initial_time(ours), lead_time(ours), valid_times(ours)
    if time is None or lead is None or valid is None or not {time, lead} <= set(valid.dims):
        raise ValueError(
            f"persistence needs the initial and the lead times of a forecast, dimensions such as {TIME[0]!r} "
            f"and {LEAD[0]!r}; this one has {tuple(ours.dims)}"
        )
    if initial_time(sets["truth"]) is None:
        raise ValueError(f"the truth has no times: its dimensions are {tuple(sets['truth'].dims)}")
    changing = [name for name in ours.data_vars if lead in ours[name].dims]
    fields = fields_of(ours, changing)
    pairing = Pairing(fields, sets["truth"], arrays=arrays)
    start = at_times(pairing.truth, ours[time], "truth", "truth" in arrays)
    still = start.expand_dims({lead: ours.sizes[lead]})
    own = {name: c for name, c in ours.coords.items() if set(c.dims) <= set(still.dims)}
    own |= {name: c for name, c in fields.coords.items() if name not in ours[changing].coords}
    return _as_given(still.assign_coords(own).transpose(time, lead, ...), truth)


def climatology(ds: Any, *, hours: bool = True, time: str = "time") -> Any:
    """The mean of each day of the year and hour, as :func:`acc` takes it.

    Reads the samples of one day and hour at a time.

    Parameters
    ----------
    ds
        Dataset or DataArray with dates along ``time``; variables without it are kept as they are.
    hours
        Whether each hour of the day has a mean of its own.

    Returns
    -------
    The same with ``time`` replaced by ``dayofyear``, and ``hour`` before it. Missing values stay missing.

    Raises
    ------
    ValueError
        If there is no such time, or a day of the year lacks an hour that others have.
    """
    whole = _decoded(ds, "ds")
    if time not in whole.dims or not are_dates(whole[time].values):
        if time not in whole.dims:
            raise ValueError(
                f"a climatology needs dates along {time!r}; the dimensions are {tuple(whole.dims)}: name the "
                "dimension, climatology(ds, time='…')"
            )
        held = whole[time].dtype
        raise ValueError(
            f"a climatology needs dates along {time!r}; it holds {held}: "
            f"{dating(time, held, 'ds', isinstance(ds, xarray.DataArray))}"
        )
    if not whole.sizes[time]:
        raise ValueError(f"a climatology needs dates along {time!r}; there are none")
    changing = whole[[name for name in whole.data_vars if time in whole[name].dims]]
    for name in changing.data_vars:
        call = "ds" if isinstance(ds, xarray.DataArray) else f"ds[{name!r}]"
        check_numbers(whole[name], call)
        refuse_labels(whole[name], call, f"Take the share of each, {call} == …, or leave them out")
    days, clock = whole[time].dt.dayofyear.values, whole[time].dt.hour.values
    of_hours = []
    for hour in np.unique(clock) if hours else [None]:
        of_days = []
        for day in np.unique(days):
            chosen = np.flatnonzero((days == day) & ((clock == hour) if hours else True))
            if not len(chosen):
                raise ValueError(f"no sample lies at day {day}, hour {hour}: climatology(ds, hours=False)")
            of_days.append(changing.isel({time: chosen}).mean(time, skipna=False, keep_attrs=True))
        of_hours.append(_joined(of_days, "dayofyear", np.unique(days)))
    means = _joined(of_hours, "hour", np.unique(clock)) if hours else of_hours[0]
    result = whole.drop_vars([*changing.data_vars, *(n for n, c in whole.coords.items() if time in c.dims)])
    result = fields_of(result.assign(means.data_vars), list(whole.data_vars))
    return _as_given(result, ds)


def _difference(pair: Pair) -> xarray.Dataset:
    return _float64(pair.forecast) - _float64(pair.truth)


def _float64(ds: xarray.Dataset) -> xarray.Dataset:
    return ds.astype(np.float64)


def _mean_distance(values: xarray.DataArray, dim: str, fair: bool) -> xarray.DataArray:
    """Mean of |x − x′| over pairs of members, by their ranks: the i-th of n enters 2 i − n − 1 times."""
    count = values.sizes[dim]
    factors = 2.0 * np.arange(1, count + 1) - count - 1.0
    axis = values.get_axis_num(dim)
    ordered = np.moveaxis(np.sort(values.values, axis=axis), axis, 0)
    # one after the other: a product of matrices would add them up in another order for other blocks
    weighed = sum(factor * member for factor, member in zip(factors, ordered, strict=True))
    pairs = count * (count - 1) if fair else count**2
    return values.isel({dim: 0}, drop=True).copy(data=weighed * (2.0 / pairs))


def _decoded(data: Any, call: str) -> xarray.Dataset:
    return decoded(as_dataset(data), call, isinstance(data, xarray.DataArray))


def _as_given(ds: xarray.Dataset, like: Any) -> Any:
    """The data set, or its one variable if a DataArray was given."""
    if not isinstance(like, xarray.DataArray):
        return ds
    (name,) = ds.data_vars
    return ds[name].rename(like.name)


def _joined(parts: list[xarray.Dataset], dim: str, labels: Any) -> xarray.Dataset:
    whole = xarray.concat(parts, dim, data_vars="all", coords="minimal", compat="override")
    return whole.assign_coords({dim: labels})
