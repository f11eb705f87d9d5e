"""What the values of a data set are like, from a few of its steps or all of them: missing, range, masks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.grids import recognise
from geoattn.xarray.schema.schema import Schema, on_grid

#: steps that are looked at, the first and the last among them
STEPS = 10


@dataclasses.dataclass
class Look:
    """What was seen of one variable."""

    name: str
    #: steps that were looked at, and that there are
    steps: int = 0
    of: int = 1
    values: int = 0
    missing: int = 0
    infinite: int = 0
    minimum: float = math.nan
    maximum: float = math.nan
    #: ``"none"`` if nothing is missing, ``"static"`` if the same places are always, else ``"changing"``
    mask: str = "none"
    #: where values are missing in the first step
    first: NDArray[np.bool_] | None = None

    def add(self, values: NDArray[Any]) -> None:
        """Look at one step."""
        self.steps += 1
        self.values += values.size
        if values.dtype.kind not in "biuf":
            return
        gone = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        self.missing += int(gone.sum())
        if self.first is None:
            self.first = gone
        if self.missing:
            same = self.mask != "changing" and np.array_equal(gone, self.first)
            self.mask = "static" if same else "changing"
        finite = np.isfinite(values)
        self.infinite += int(values.size - finite.sum() - gone.sum())
        if finite.any():
            self.minimum = float(np.fmin(self.minimum, values[finite].min()))
            self.maximum = float(np.fmax(self.maximum, values[finite].max()))


def look(
    ds: xarray.Dataset,
    samples: Mapping[str, Sequence[str]],
    full: bool = False,
    progress: Callable[[int], object] | None = None,
) -> dict[str, Look]:
    """Look at variables: at the first step, the last, and eight between in equal distances; or at all.

    Parameters
    ----------
    samples
        Name of each variable → the dimensions along which its samples follow one another.
    full
        Whether all steps are read.
    progress
        Called with the number of steps that were read, time after time.
    """
    found = {}
    for name, dims in samples.items():
        array, seen = ds[name], Look(name)
        sizes = [int(array.sizes[dim]) for dim in dims]
        seen.of = math.prod(sizes)
        for step in range(seen.of) if full else looked_at(seen.of):
            places = dict(zip(dims, map(int, np.unravel_index(step, sizes)), strict=True)) if sizes else {}
            seen.add(array.isel(places).values)
            if progress is not None:
                progress(1)
        found[name] = seen
    return found


def looked_at(steps: int) -> list[int]:
    """The steps that are looked at, of so many."""
    if steps < 1:
        return []
    return sorted(set(np.linspace(0, steps - 1, STEPS).round().astype(int).tolist()))


def choose(
    ds: xarray.Dataset,
    variables: Iterable[str] | None = None,
    masked: Iterable[str] | None = None,
    **recognition: Any,
) -> Schema:
    """The schema of a data set by words, as they are written on a command line.

    Parameters
    ----------
    variables
        ``name``, or ``name=850,500`` for some of its levels; by default all that lie on the grid.
    masked
        ``name``, ``name=static`` or ``name=changing``: variables with missing values, beside those where
        something is missing in the steps that :func:`look` looks at, as it is missing there. A name alone is
        changing, or static if the variable is the same at all times.
    **recognition
        Options of :func:`geoattn.grids.recognise`.

    Raises
    ------
    ValueError
        As :meth:`Schema.of`.
    """
    chosen = None if variables is None else dict(map(_levels, variables))
    given = {name: kind for name, _, kind in (word.partition("=") for word in masked or ())}
    whole = Schema.of(
        ds, chosen, masked={name: kind or "changing" for name, kind in given.items()}, **recognition
    )
    static = {v.name: not set(whole.sample_dims) & set(map(str, ds[v.name].dims)) for v in whole.variables}
    seen = look(ds, {name: () if static[name] else whole.sample_dims for name in static if name not in given})
    masks = {name: one.mask for name, one in seen.items() if one.mask != "none"}
    masks |= {name: kind or ("static" if static[name] else "changing") for name, kind in given.items()}
    return Schema.of(ds, chosen, masked=masks, **recognition) if masks else whole


def fields(ds: xarray.Dataset, **recognition: Any) -> list[str]:
    """The variables on the grid, by name."""
    return on_grid(ds, recognise(ds, **recognition).dims)


def _levels(word: str) -> tuple[str, list[Any] | None]:
    name, given, levels = word.partition("=")
    return name, [_number(level) for level in levels.split(",")] if given else None


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
