"""The time axis of stores: strictly increasing, in equal steps, or in segments that are."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

GAPS = ("error", "split")


def stamp(time: Any) -> str:
    """A time in words, to the second."""
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
            f"{np.isnat(times).argmax()}: drop them, ds.dropna({dim!r})"
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


def segments(times: NDArray[Any], dim: str, gaps: str) -> list[tuple[int, int]]:
    """``(start, stop)`` of the longest stretches without gaps, in order.

    The step is the most common one. ``gaps="error"`` refuses any other, ``"split"`` ends a stretch.

    Raises
    ------
    ValueError
        If there are gaps, naming the first.
    """
    if gaps not in GAPS:
        raise ValueError(f"gaps must be one of {GAPS}, got {gaps!r}")
    differences = times[1:] - times[:-1]
    if len(differences) == 0:
        return [(0, len(times))]
    values, counts = np.unique(differences, return_counts=True)
    step = values[counts.argmax()]
    breaks = np.flatnonzero(differences != step)
    if len(breaks) and gaps == "error":
        i = breaks[0]
        raise ValueError(
            f"{dim!r} has {len(breaks)} gaps: {stamp(times[i])} is followed by {stamp(times[i + 1])}, "
            f"while most steps are {_readable(step)}. To let no window cross them: gaps='split'"
        )
    borders = [0, *(breaks + 1).tolist(), len(times)]
    return list(pairwise(borders))


def _readable(step: Any) -> str:
    if isinstance(step, np.timedelta64):
        return f"{step / np.timedelta64(1, 'h'):g} h"
    return str(step)
