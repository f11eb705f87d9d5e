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

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import xarray

from geoattn.xarray.fields import area_mean
from geoattn.xarray.schema.times import are_dates, dating
from geoattn.xarray.schema.units import check_units
from geoattn.xarray.schema.values import check_numbers, refuse_labels
from geoattn.xarray.scores.lead_times import LEAD, TIME, decoded, initial_time, lead_time, valid_times
from geoattn.xarray.scores.pairs import Pair, Pairing, at_times

Averages = Callable[[xarray.Dataset, Pair], xarray.Dataset]
Score = TypeVar("Score", bound=Callable[..., Any])


def _says_its_weights(score: Score) -> Score:
    """The score, whose results carry what they are weighed by in the attribute ``weights``."""

    @wraps(score)
    def weighed(*arguments: Any, **options: Any) -> Any:
        result, by = score(*arguments, **options), options.get("weights")
        note = {"weights": (by or "quadrature") if by is None or isinstance(by, str) else "given"}
        if isinstance(result, xarray.Dataset):
            result = result.assign({name: array.assign_attrs(note) for name, array in result.items()})
        return result.assign_attrs(note)

    return cast(Score, weighed)


@_says_its_weights
def rmse(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Root-mean-square error: the root is taken after the mean over area and initial times.

    See :mod:`geoattn.xarray.metrics` for the parameters.
    """

    def squares(pair: Pair, average: Averages) -> xarray.Dataset:
        return average(_difference(pair) ** 2, pair)

    mean = _score("the squared error", squares, forecast, truth, weights, mask, over)
    return _keep_units(np.sqrt(mean), forecast)


@_says_its_weights
def mae(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Mean absolute error. See :mod:`geoattn.xarray.metrics` for the parameters."""

    def absolute(pair: Pair, average: Averages) -> xarray.Dataset:
        return average(abs(_difference(pair)), pair)

    return _keep_units(_score("the error", absolute, forecast, truth, weights, mask, over), forecast)


@_says_its_weights
def bias(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Mean of forecast minus truth. See :mod:`geoattn.xarray.metrics` for the parameters."""

    def difference(pair: Pair, average: Averages) -> xarray.Dataset:
        return average(_difference(pair), pair)

    return _keep_units(_score("the error", difference, forecast, truth, weights, mask, over), forecast)


@_says_its_weights
def relative_l2(forecast: Any, truth: Any, *, weights: Any = None, mask: Any = None, over: Any = None) -> Any:
    """Norm of the error over that of the truth, ‖f − t‖ / ‖t‖, of each initial time, averaged over them.

    Norms are root-mean-squares over the globe. See :mod:`geoattn.xarray.metrics` for the parameters.
    """

    def ratio(pair: Pair, average: Averages) -> xarray.Dataset:
        sizes = average(_float64(pair.truth) ** 2, pair)
        if vanishing := [name for name in sizes if bool((sizes[name] <= 0).any())]:
            raise ValueError(f"the truth of {vanishing} is 0 everywhere at some time: take rmse")
        return (average(_difference(pair) ** 2, pair) / sizes) ** 0.5

    return _score("the squared error", ratio, forecast, truth, weights, mask, over)


@_says_its_weights
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

    _as_dataset(climatology)  # or refused

    def correlation(pair: Pair, average: Averages) -> xarray.Dataset:
        ours = _float64(pair.forecast) - _float64(pair.climatology)
        theirs = _float64(pair.truth) - _float64(pair.climatology)
        norms = np.sqrt(average(ours**2, pair) * average(theirs**2, pair))
        if vanishing := [name for name in norms if bool((norms[name] <= 0).any())]:
            raise ValueError(f"anomalies of {vanishing} vanish at some time: it is the climatology")
        return average(ours * theirs, pair) / norms

    return _score("the anomaly", correlation, forecast, truth, weights, mask, over, climatology=climatology)


@_says_its_weights
def wind_vector_rmse(
    forecast: xarray.Dataset,
    truth: xarray.Dataset,
    u: str = "u_component_of_wind",
    v: str = "v_component_of_wind",
    *,
    weights: Any = None,
    mask: Any = None,
    over: Any = None,
) -> xarray.DataArray:
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

    def lengths(pair: Pair, average: Averages) -> xarray.Dataset:
        squares = average(_difference(pair) ** 2, pair)
        return xarray.Dataset({"wind_vector": squares[u] + squares[v]})

    mean = _score("the squared error", lengths, forecast[[u, v]], truth, weights, mask, over)
    result: xarray.DataArray = np.sqrt(mean["wind_vector"])
    return result.assign_attrs({k: x for k, x in forecast[u].attrs.items() if k == "units"})


@_says_its_weights
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
    members = _as_dataset(forecast).sizes.get(ensemble_dim, 0)
    if fair and members == 1:
        raise ValueError("the fair CRPS needs at least two members, there is one: fair=False")

    def score(pair: Pair, average: Averages) -> xarray.Dataset:
        ensemble = _float64(pair.forecast)
        skill = abs(ensemble - _float64(pair.truth)).mean(ensemble_dim, skipna=False)
        spread = ensemble.map(lambda v: _mean_distance(v, ensemble_dim, fair))
        return average(skill - spread / 2, pair)

    mean = _score("the error", score, forecast, truth, weights, mask, over, ensemble_dim=ensemble_dim)
    return _keep_units(mean, forecast)


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
    given, arrays = _given(forecast, truth)
    ours = decoded(given["forecast"], "forecast", "forecast" in arrays)
    time, lead, valid = initial_time(ours), lead_time(ours), valid_times(ours)
    if time is None or lead is None or valid is None or not {time, lead} <= set(valid.dims):
        raise ValueError(
            f"persistence needs the initial and the lead times of a forecast, dimensions such as {TIME[0]!r} "
            f"and {LEAD[0]!r}; this one has {tuple(ours.dims)}"
        )
    if initial_time(given["truth"]) is None:
        raise ValueError(f"the truth has no times: its dimensions are {tuple(given['truth'].dims)}")
    changing = [name for name in ours.data_vars if lead in ours[name].dims]
    pairing = Pairing(ours[changing], given["truth"], arrays=arrays)
    start = at_times(pairing.truth, ours[time], "truth", "truth" in arrays)
    still = start.expand_dims({lead: ours.sizes[lead]})
    own = {name: c for name, c in ours.coords.items() if set(c.dims) <= set(still.dims)}
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
    result = result.assign(means.data_vars)[list(whole.data_vars)]
    return _as_given(result, ds)


def _score(
    what: str,
    of_samples: Callable[[Pair, Averages], xarray.Dataset],
    forecast: Any,
    truth: Any,
    weights: Any,
    mask: Any,
    over: str | Sequence[str] | None,
    climatology: Any = None,
    ensemble_dim: str = "",
) -> Any:
    """Averages over the globe, block by block, then over ``over``; of the same type as the forecast."""
    sets, arrays = _given(forecast, truth, **({} if climatology is None else {"climatology": climatology}))
    pairing = Pairing(**sets, area=weights, mask=mask, arrays=arrays, ensemble_dim=ensemble_dim)

    def average(values: xarray.Dataset, pair: Pair) -> xarray.Dataset:
        means = {}
        for name, array in values.items():
            mask = None if name not in pair.mask else pairing.with_its_levels(name, pair.mask[name])
            own = pairing.with_its_levels(name, array)
            means[name] = area_mean(own, pairing.area, mask, f"{what} of {name}")
        return xarray.Dataset(means)  # NaN on the levels that a variable lacks

    parts = [of_samples(pair, average) for pair in pairing.blocks()]
    whole = parts[0] if len(parts) == 1 else xarray.concat(parts, pairing.time)
    if over is None:
        over = [pairing.time] if pairing.time else []
    if not isinstance(over, str | Sequence):
        raise TypeError(f"over must name dimensions, got {over!r}")
    over = [over] if isinstance(over, str) else list(over)
    if unknown := [dim for dim in over if dim not in whole.dims]:
        raise ValueError(f"over names {unknown}, but the dimensions are {tuple(whole.dims)}")
    return _as_given(whole.mean(over, skipna=False), forecast)


def _given(forecast: Any, truth: Any, **others: Any) -> tuple[dict[str, xarray.Dataset], list[str]]:
    """What is compared, as data sets, and which of them were given as arrays."""
    given = {"forecast": forecast, "truth": truth, **others}
    arrays = [name for name, data in given.items() if isinstance(data, xarray.DataArray)]
    sets = {name: _as_dataset(data) for name, data in given.items()}
    if ("forecast" in arrays) != ("truth" in arrays):
        raise TypeError(
            "forecast and truth must be of one type, "
            f"got {type(forecast).__name__} and {type(truth).__name__}; of an array make a data set, "
            f"{arrays[0]}.to_dataset(name='…')"
        )
    if isinstance(forecast, xarray.DataArray) and forecast.name != truth.name:
        raise ValueError(
            f"the forecast is of {forecast.name!r}, the truth of {truth.name!r}: if they are of one kind, "
            f"truth.rename({forecast.name!r})"
        )
    return sets, arrays


def _difference(pair: Pair) -> xarray.Dataset:
    return _float64(pair.forecast) - _float64(pair.truth)


def _float64(ds: xarray.Dataset) -> xarray.Dataset:
    return ds.astype(np.float64)


def _mean_distance(values: xarray.DataArray, dim: str, fair: bool) -> xarray.DataArray:
    """Mean of |x − x′| over pairs of members, by their ranks: the i-th of n enters 2 i − n − 1 times."""
    count = values.sizes[dim]
    factors = 2.0 * np.arange(1, count + 1) - count - 1.0
    axis = values.get_axis_num(dim)
    ordered = np.moveaxis(np.sort(values.values, axis=axis), axis, -1)
    pairs = count * (count - 1) if fair else count**2
    return values.isel({dim: 0}, drop=True).copy(data=ordered @ factors * (2.0 / pairs))


def _as_dataset(data: Any) -> xarray.Dataset:
    if isinstance(data, xarray.DataArray):
        return data.to_dataset(name="values" if data.name is None else data.name)
    if isinstance(data, xarray.Dataset):
        return data
    raise TypeError(f"scores compare xarray objects, got {type(data).__name__}")


def _decoded(data: Any, call: str) -> xarray.Dataset:
    return decoded(_as_dataset(data), call, isinstance(data, xarray.DataArray))


def _as_given(ds: xarray.Dataset, like: Any) -> Any:
    """The data set, or its one variable if a DataArray was given."""
    if not isinstance(like, xarray.DataArray):
        return ds
    (name,) = ds.data_vars
    return ds[name].rename(like.name)


def _keep_units(score: Any, forecast: Any) -> Any:
    if isinstance(score, xarray.DataArray):
        return score.assign_attrs({k: v for k, v in forecast.attrs.items() if k == "units"})
    for name in score:
        score[name].attrs = {k: v for k, v in forecast[name].attrs.items() if k == "units"}
    return score


def _joined(parts: list[xarray.Dataset], dim: str, labels: Any) -> xarray.Dataset:
    whole = xarray.concat(parts, dim, data_vars="all", coords="minimal", compat="override")
    return whole.assign_coords({dim: labels})
