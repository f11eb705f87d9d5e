"""Parts of a store's times, for training, validation and test: which steps they are, and none in two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, pairwise, takewhile
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.xarray.schema.times import stamp

#: name of each part, in the order of time → its share where none is given
SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}

#: first step, and the one after the last
Span = tuple[int, int]


def steps_in(whole: NDArray[Any], dim: str, times: slice | None) -> Span:
    """The steps from the first to the last time of a slice, both included; all without one.

    Raises
    ------
    TypeError
        If ``times`` is no slice.
    ValueError
        If no step lies in it.
    """
    if times is None:
        return 0, len(whole)
    check_period(times)
    index = xarray.Dataset(coords={dim: whole}).indexes[dim]
    first, stop, _ = index.slice_indexer(times.start, times.stop).indices(len(whole))
    if stop <= first:
        raise ValueError(f"no {dim} lies in {times}: the store has {stamp(whole[0])} to {stamp(whole[-1])}")
    return first, stop


def check_period(times: Any, name: str = "times") -> None:
    """Refuse what is no slice, with the slice that is meant.

    Raises
    ------
    TypeError
        If it is none.
    """
    if isinstance(times, slice):
        return
    pair = isinstance(times, list | tuple) and len(times) == 2
    ends = ", ".join(repr(end) for end in times) if pair else "'…', '…'"
    raise TypeError(
        f"{name} are the first and the last time, as a slice, got {type(times).__name__} {times!r}: "
        f"{name}=slice({ends})"
    )


def shared_out(given: Mapping[str, Span], steps: int) -> dict[str, Span]:
    """All parts: what is not given takes, by its share, the steps after the part before it.

    They end where the next part that is given begins.
    """
    names, found = list(SHARES), dict(given)
    for i, name in enumerate(names):
        if name in found:
            continue
        run = list(takewhile(lambda one: one not in given, names[i:]))
        start = found[names[i - 1]][1] if i else 0
        stop = min((first for first, _ in given.values() if first >= start), default=steps)
        parts = np.cumsum([0.0, *(SHARES[one] for one in run)])
        ends = [start + round((stop - start) * part / parts[-1]) for part in parts]
        found |= dict(zip(run, pairwise(ends), strict=True))
    return {name: found[name] for name in names}


def check_apart(
    parts: Mapping[str, Span],
    times: NDArray[Any],
    given: Mapping[str, str],
    written: Callable[[str, str, str], str],
) -> None:
    """Refuse parts that have steps in common: what a model was trained on cannot judge it.

    Parameters
    ----------
    given
        Name of each part → as it was given.
    written
        Makes of the name of a part and its first and last time how that part is given.

    Raises
    ------
    ValueError
        Naming both, and how to part them.
    """
    for (one, mine), (two, theirs) in combinations(parts.items(), 2):
        start, stop = max(mine[0], theirs[0]), min(mine[1], theirs[1])
        if stop <= start:
            continue
        apart = {n: span for n, span in _parted(one, mine, two, theirs).items() if span != parts[n]}
        calls = " and ".join(
            written(name, stamp(times[a]), stamp(times[b - 1])) for name, (a, b) in apart.items()
        )
        raise ValueError(
            f"{one}, {given[one]}, and {two}, {given[two]}, share {stop - start} steps, "
            f"{stamp(times[start])} to {stamp(times[stop - 1])}, and a model is not judged by what it has "
            f"learned from: part them, {calls}"
        )


def _parted(one: str, mine: Span, two: str, theirs: Span) -> dict[str, Span]:
    """Two parts that overlap, cut so that they do not: the first where something of it remains."""
    (a, b), (c, d) = mine, theirs
    if a < c:
        return {one: (a, c), two: theirs}
    if d < b:
        return {one: (d, b), two: theirs}
    if b < d:
        return {one: mine, two: (b, d)}
    if c < a:
        return {one: mine, two: (c, a)}
    middle = (a + b + 1) // 2
    return {one: (a, middle), two: (middle, b)}
