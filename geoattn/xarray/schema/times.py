"""The time axis of stores: strictly increasing, in equal steps, or in segments that are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoattn.xarray.schema.values import decoding
from geoattn.xarray.words import counted

GAPS = ("error", "split")
#: what the calendar of numpy's dates is called; cftime's dates of that calendar are others to compare
NUMPY = "standard"


def stamp(time: Any) -> str:
    """A time in words, to the second; a length of time in hours."""
    if isinstance(time, np.timedelta64) and not np.isnat(time):
        return f"{time / np.timedelta64(1, 'h'):g} h"
    if isinstance(time, np.datetime64) and not np.isnat(time):
        return str(np.datetime_as_string(time, unit="s"))
    return str(time)


def check_times(times: NDArray[Any], dim: str) -> None:
    """Refuse missing, repeated and unsorted times.

    Raises
    ------
    ValueError
        Naming the first of them.
    """
    if times.dtype.kind in "mM" and np.isnat(times).any():
        raise ValueError(
            f"{dim!r} has {np.isnat(times).sum()} missing values, the first at index "
            f"{np.isnat(times).argmax()}: drop them, ds.isel({dim}=ds[{dim!r}].notnull())"
        )
    for i in np.flatnonzero(times[1:] <= times[:-1])[:1]:
        if times[i + 1] == times[i]:
            raise ValueError(
                f"{dim!r} repeats {stamp(times[i])} at indices {i} and {i + 1}; drop one of them: "
                f"ds.drop_duplicates({dim!r})"
            )
        raise ValueError(
            f"{dim!r} is not sorted: {stamp(times[i])} is followed by {stamp(times[i + 1])}. Sort it first: "
            f"ds.sortby({dim!r})"
        )


def dating(dim: str, held: np.dtype[Any], call: str, of_array: bool) -> str:
    """The statements that make dates of what a coordinate ``held`` in a Dataset or DataArray."""
    if held.kind in "iuf":
        return (
            f"give the {held} numbers their units, {call}[{dim!r}].attrs['units'] = 'hours since …', and "
            f"decode them, {decoding(call, of_array)}"
        )
    return f"make dates of it, {call} = {call}.assign_coords({dim}={call}[{dim!r}].astype('datetime64[ns]'))"


def are_dates(times: NDArray[Any]) -> bool:
    """Whether they are dates of numpy or of another calendar."""
    return bool(_calendar(times))


def check_calendars(
    mine: NDArray[Any],
    theirs: NDArray[Any],
    dim: str,
    what: str,
    other: str,
    calls: tuple[str, str],
    of_arrays: bool = False,
) -> None:
    """Refuse times ``mine`` of one thing, ``what``, in another calendar than ``theirs`` of the ``other``.

    Raises
    ------
    ValueError
        Naming both, and the call that converts the first. ``calls`` names both where they were given.
    """
    ours, wanted = _calendar(mine), _calendar(theirs)
    if ours == wanted or not (len(mine) and len(theirs)):
        return
    if not ours or not wanted:
        held, call = (theirs.dtype, calls[1]) if ours else (mine.dtype, calls[0])
        raise ValueError(
            f"{dim!r} holds {'dates' if ours else mine.dtype} in {what}, "
            f"{'dates' if wanted else theirs.dtype} in {other}: {dating(dim, held, call, of_arrays)}"
        )
    options = "'standard', use_cftime=False" if wanted == NUMPY else f"{wanted!r}, use_cftime=True"
    if "360_day" in (ours, wanted):
        options += ", align_on='date'"
    raise ValueError(
        f"{dim!r} is in the calendar {ours!r} in {what}, in {wanted!r} in {other}: bring one to the other, "
        f"{calls[0]}.convert_calendar({options}, dim={dim!r})"
    )


def _calendar(times: NDArray[Any]) -> str:
    """Of dates, "" if they are none."""
    if times.dtype.kind == "M":
        return NUMPY
    if not len(times) or not hasattr(times[0], "calendar"):
        return ""
    return {"standard": "gregorian"}.get(times[0].calendar, str(times[0].calendar))


def settled(times: NDArray[Any]) -> NDArray[Any]:
    """The times without jitter that is tiny against their step.

    Files that count days or hours in floating point give times that are off by their rounding. If all lie
    within a hundredth of a step of whole days, hours, minutes or seconds, the coarsest such unit was meant.
    """
    dates = times.dtype.kind == "M" or (
        times.dtype.kind == "O" and len(times) and hasattr(times[0], "calendar")
    )
    if not dates or len(times) < 2 or (times.dtype.kind == "M" and np.isnat(times).any()):
        return times
    midnight = _midnight(times[0])
    since = np.asarray(times - midnight, dtype="timedelta64[ns]").astype(np.int64)
    steps = np.diff(since)
    step = int(np.median(steps))
    if not (steps != steps[0]).any() or step <= 0:
        return times
    for unit in (86_400, 3_600, 60, 1):
        nanoseconds = unit * 10**9
        rounded = np.rint(since / nanoseconds).astype(np.int64) * nanoseconds
        if np.abs(rounded - since).max() <= min(step // 100, nanoseconds // 4):
            break
    else:
        return times
    lengths: NDArray[Any] = rounded.astype("timedelta64[ns]")
    if times.dtype.kind == "O":
        lengths = lengths.astype("timedelta64[us]").astype(object)
    return np.asarray(midnight + lengths)


def _midnight(time: Any) -> Any:
    if isinstance(time, np.datetime64):
        return time.astype("datetime64[D]").astype("datetime64[ns]")
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def segments(times: NDArray[Any], dim: str, gaps: str) -> list[tuple[int, int]]:
    """``(start, stop)`` of the longest stretches without gaps, in order.

    The step is the most common one; of monthly, seasonal and yearly data it is a number of calendar
    months. ``gaps="error"`` refuses any other, ``"split"`` ends a stretch.

    Raises
    ------
    ValueError
        If there are gaps, naming the first.
    """
    if gaps not in GAPS:
        raise ValueError(f"gaps must be one of {GAPS}, got {gaps!r}")
    if len(times) < 2:
        return [(0, len(times))]
    months = _months(times)
    differences = np.diff(times if months is None else months)
    values, counts = np.unique(differences, return_counts=True)
    step = values[counts.argmax()]
    breaks = np.flatnonzero(differences != step)
    if len(breaks) and gaps == "error":
        i = breaks[0]
        usual = _readable(step) if months is None else f"{step} calendar month{'s' if step > 1 else ''}"
        raise ValueError(
            f"{dim!r} has {counted(len(breaks), 'gap')}: {stamp(times[i])} is followed by "
            f"{stamp(times[i + 1])}, while most steps are {usual}. To let no window cross them: gaps='split'"
        )
    borders = [0, *(breaks + 1).tolist(), len(times)]
    return list(pairwise(borders))


def crossing(steps: int, stretches: list[tuple[int, int]], span: int, stride: int = 1) -> int:
    """How many of the windows of ``span`` steps, one each ``stride`` steps, cross a gap."""
    starts = np.arange(0, max(0, steps - span + 1), stride)
    ends = np.array([stop for _, stop in stretches])
    return int(
        (np.searchsorted(ends, starts, "right") != np.searchsorted(ends, starts + span - 1, "right")).sum()
    )


def length_of_step(times: NDArray[Any]) -> np.timedelta64 | None:
    """The time between neighbours in dates; None if it varies, or they are no dates or fewer than two."""
    if len(times) < 2 or not _calendar(times):
        return None
    steps = np.asarray(np.diff(times), dtype="timedelta64[ns]")
    return None if (steps != steps[0]).any() else np.timedelta64(steps[0])


def _months(times: NDArray[Any]) -> NDArray[np.int64] | None:
    """The calendar month of each time, counted on; None if the data is not monthly or of longer steps."""
    if times.dtype.kind == "M":
        months = times.astype("datetime64[M]").astype(np.int64)
        days = (times.astype("datetime64[D]") - times.astype("datetime64[M]")).astype(np.int64)
    elif hasattr(times[0], "calendar"):
        months = np.array([12 * time.year + time.month for time in times], dtype=np.int64)
        days = np.array([time.day - 1 for time in times], dtype=np.int64)
    else:
        return None
    # one sample a month at most, always at its start, its end, or about its middle
    once = bool((np.diff(months) > 0).all())
    placed = bool(np.ptp(days) <= 3)
    lengths = np.diff(times)
    return months if once and placed and bool((lengths != lengths[0]).any()) else None


def _readable(step: Any) -> str:
    if isinstance(step, np.timedelta64):
        return f"{step / np.timedelta64(1, 'h'):g} h"
    return str(step)
