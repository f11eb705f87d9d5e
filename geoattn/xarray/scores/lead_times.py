"""When a forecast is valid: its initial times, and the lengths of time since then."""

from __future__ import annotations

import numpy as np
import xarray

from geoattn.xarray.schema.times import settled
from geoattn.xarray.schema.values import decoding

#: names in use for the dimensions of a forecast: its initial time, and the time since then
TIME = ("time", "init_time", "forecast_reference_time", "valid_time")
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


def first_of(names: tuple[str, ...], ds: xarray.Dataset) -> str | None:
    """The first of the names that is a dimension of the data set."""
    return next((name for name in names if name in ds.dims), None)


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
        If its initial times are numbers that stand for dates, or the units of its lead times are unknown.
    """
    time = first_of(TIME, forecast)
    since = str(forecast[time].attrs.get("units", "")) if time and time in forecast.coords else ""
    if time and " since " in since and forecast[time].dtype.kind in "iuf":
        raise ValueError(
            f"{time!r} holds numbers in {since!r}, not dates: decode them first, {decoding(call, of_array)}"
        )
    if time and time in forecast.coords:
        forecast = forecast.assign_coords({time: forecast[time].copy(data=settled(forecast[time].values))})
    name = next((name for name in LEAD if name in forecast.coords), None)
    if name is None or forecast[name].dtype.kind == "m":
        return forecast
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
    """Initial times plus lead times; None if the forecast has no time."""
    time = first_of(TIME, forecast)
    if time is None:
        return None
    times = forecast[time]
    lead = next((name for name in LEAD if name in forecast.coords), None)
    if lead is None:
        return times
    since = forecast[lead]
    if times.dtype.kind == "O":  # dates of other calendars
        lengths = np.asarray(since.values.astype("timedelta64[us]").astype(object))
        coords = {**times.coords, **since.coords}
        values = np.add.outer(times.values, lengths)
        return xarray.DataArray(values, coords, (*times.dims, *since.dims))
    return times + since
