"""When a forecast is valid: its initial times, and the lengths of time since then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray

from geoattn.xarray.schema.times import are_dates, settled, stamp
from geoattn.xarray.schema.values import decoding

#: names in use for the dimensions of a forecast, CF's standard names among them: its initial time, and
#: the time since then
INITIAL = "forecast_reference_time"
TIME = ("time", "init_time", INITIAL, "valid_time")
LEAD = ("prediction_timedelta", "lead_time", "step", "forecast_period")
#: spellings of units of time, CF's (UDUNITS) among them → microseconds
_MICROSECONDS = {
    spelling: length
    for length, spellings in (
        (7 * 86_400e6, "week weeks"),
        (86_400e6, "d day days"),
        (3_600e6, "h hr hrs hour hours"),
        (60e6, "min mins minute minutes"),
        (1e6, "s sec secs second seconds"),
        (1e3, "ms msec msecs millisec millisecs millisecond milliseconds"),
        (1.0, "us usec µs microsec microsecs microsecond microseconds"),
        (1e-3, "ns nanosec nanosecs nanosecond nanoseconds"),
    )
    for spelling in spellings.split()
}


def in_hours(coordinate: xarray.DataArray, value: Any) -> str | None:
    """A lead time in words, ``6 h``, as it is kept in a coordinate; None if that holds none."""
    if coordinate.dtype.kind == "m":
        return stamp(value)
    named = coordinate.name in LEAD or coordinate.attrs.get("standard_name") in LEAD
    length = _MICROSECONDS.get(str(coordinate.attrs.get("units", "")).strip().lower())
    if not named or length is None or coordinate.dtype.kind not in "iuf":
        return None
    return f"{float(value) * length / _MICROSECONDS['hour']:g} h"


def initial_time(ds: xarray.Dataset) -> str | None:
    """The dimension of initial times, or of times, by its name or its standard name; None without one."""
    named = next((name for name in TIME if name in ds.dims), None)
    return named or _by_standard_name(TIME, {name: c for name, c in ds.coords.items() if name in ds.dims})


def time_of(ds: xarray.Dataset) -> str | None:
    """As :func:`initial_time`, or the one time of all that the data set holds, a scalar coordinate."""
    scalars = {str(name): c for name, c in ds.coords.items() if not c.dims}
    named = initial_time(ds) or next((name for name in TIME if name in scalars), None)
    return named or _by_standard_name(TIME, scalars)


def lead_time(ds: xarray.Dataset) -> str | None:
    """The dimension or coordinate of lead times: by its name, its standard name, or its lengths of time."""
    named = next((name for name in LEAD if name in {*ds.dims, *ds.coords}), None)
    if named or (named := _by_standard_name(LEAD, ds.coords)):
        return named
    lengths = [str(dim) for dim in ds.dims if dim in ds.coords and ds[dim].dtype.kind == "m"]
    return lengths[0] if len(lengths) == 1 else None


def _by_standard_name(names: tuple[str, ...], coords: Mapping[Any, xarray.DataArray]) -> str | None:
    return next((str(name) for name, c in coords.items() if c.attrs.get("standard_name") in names), None)


def decoded(forecast: xarray.Dataset, call: str, of_array: bool) -> xarray.Dataset:
    """A data set with its times rounded to what they stand for, and its lead times as lengths of time.

    Parameters
    ----------
    call
        What the data set is called where it was given.
    of_array
        Whether it was given as a DataArray.

    Raises
    ------
    ValueError
        If its initial times are numbers that stand for dates, or no dates though there are lead times to
        add, the units of its lead times are unknown, or some of either are missing.
    """
    for dim in {initial_time(forecast), lead_time(forecast)} & set(forecast.coords):
        if missing := int(forecast[dim].isnull().sum()):
            raise ValueError(
                f"{dim!r} has {missing} missing values: drop them, "
                f"{call}.isel({dim}={call}[{dim!r}].notnull())"
            )
    time = initial_time(forecast)
    since = str(forecast[time].attrs.get("units", "")) if time and time in forecast.coords else ""
    if time and " since " in since and forecast[time].dtype.kind in "iuf":
        raise ValueError(
            f"{time!r} holds numbers in {since!r}, not dates: decode them first, {decoding(call, of_array)}"
        )
    if time and time in forecast.coords:
        forecast = forecast.assign_coords({time: forecast[time].copy(data=settled(forecast[time].values))})
    name = lead_time(forecast)
    if time and name and not (time in forecast.coords and are_dates(forecast[time].values)):
        held = f"holds {forecast[time].dtype}" if time in forecast.coords else "has no coordinate"
        raise ValueError(
            f"{time!r} {held} in the {call}, not dates to which the lead times {name!r} could be added: "
            f"{call} = {call}.assign_coords({time}=pandas.to_datetime(['…']))"
        )
    if name is None or (name in forecast.coords and forecast[name].dtype.kind == "m"):
        return forecast
    if name not in forecast.coords:
        raise ValueError(
            f"{name!r} has no coordinate that tells its lead times: {call} = "
            f"{call}.assign_coords({name}=pandas.to_timedelta([…], 'h'))"
        )
    lead = forecast[name]
    units = str(lead.attrs.get("units", ""))
    length = _MICROSECONDS.get(units.strip().lower())
    if lead.dtype.kind == "M":
        raise ValueError(f"{name!r} holds dates, not lengths of time: subtract the initial times")
    if lead.dtype.kind not in "iuf":
        raise ValueError(
            f"{name!r} holds {lead.dtype}, not lengths of time: make them of it, {call} = "
            f"{call}.assign_coords({name}=pandas.to_timedelta({call}[{name!r}].values))"
        )
    if length is None:
        raise ValueError(
            f"{name!r} holds {lead.dtype} in the units {units!r}, not lengths of time: say which they are, "
            f"{call}[{name!r}].attrs['units'] = 'hours'"
        )
    microseconds = np.round(lead.values * length).astype("timedelta64[us]")
    lengths = lead.copy(data=microseconds.astype("timedelta64[ns]"))
    lengths.attrs = {key: value for key, value in lead.attrs.items() if key != "units"}
    return forecast.assign_coords({name: lengths})


def valid_times(forecast: xarray.Dataset) -> xarray.DataArray | None:
    """Initial times plus lead times; None if the forecast has no time.

    Times are valid times already where CF says so: by the standard name ``time`` beside a coordinate of
    initial times, or since each has a lead time of its own.
    """
    time, lead = time_of(forecast), lead_time(forecast)
    if time is None or lead is None:
        return None if time is None else forecast[time]
    times, since = forecast[time], forecast[lead]
    stated = times.attrs.get("standard_name")
    initial = [n for n, c in forecast.coords.items() if INITIAL in (n, c.attrs.get("standard_name"))]
    if stated != INITIAL and (time in since.dims or (stated == "time" and initial)):
        return times
    if times.dtype.kind == "O":  # dates of other calendars
        lengths = np.asarray(since.values.astype("timedelta64[us]").astype(object))
        coords = {**times.coords, **since.coords}
        values = np.add.outer(times.values, lengths)
        return xarray.DataArray(values, coords, (*times.dims, *since.dims))
    return times + since
