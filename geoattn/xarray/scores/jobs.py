"""Scores in pieces: some initial times each, whose averages over the globe are put together at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray

from geoattn.xarray.fields import area_mean
from geoattn.xarray.scores.pairs import Pair, Pairing
from geoattn.xarray.stores.jobs import Job, Pieces

Averages = Callable[[xarray.Dataset, Pair], xarray.Dataset]
#: name of the score → for each piece, the place of its first initial time, and its values at each time
Parts = dict[str, list[tuple[int, xarray.Dataset]]]


@dataclasses.dataclass(frozen=True)
class Score:
    """How one score is taken."""

    #: what is averaged, for messages
    what: str
    #: from samples and an average over the globe to values at each initial time
    of_samples: Callable[[Pair, Averages], xarray.Dataset]
    #: whether the root is taken at the end, of the mean over times
    root: bool = False
    #: the variable whose units the result has: its own name, another's, or None for none
    units: str | None = "own"


class ScoreJob(Job[Parts, dict[str, Any]]):
    """Scores of a forecast, several at once of what is read once.

    Parameters
    ----------
    scores
        Name → score.
    forecast, truth
        As all of :mod:`geoattn.xarray.metrics` take them.
    weights, mask, over
        As they are described there.
    climatology, ensemble_dim
        What some scores need beside.
    regions
        Name → weights over the dimensions of the grid, at its points; the result then has the dimension
        ``region``. None for the one whole.
    """

    def __init__(
        self,
        scores: Mapping[str, Score],
        forecast: Any,
        truth: Any,
        *,
        weights: Any = None,
        mask: Any = None,
        over: str | Sequence[str] | None = None,
        climatology: Any = None,
        ensemble_dim: str = "",
        regions: Mapping[str, xarray.DataArray] | None = None,
    ) -> None:
        if over is not None and not isinstance(over, str | Sequence):
            raise TypeError(f"over must name dimensions, got {over!r}")
        sets, arrays = given(forecast, truth, **({} if climatology is None else {"climatology": climatology}))
        pairing = Pairing(**sets, area=weights, mask=mask, arrays=arrays, ensemble_dim=ensemble_dim)
        self.scores, self.over, self.time = dict(scores), over, pairing.time
        self.decided_by, self.ensemble_dim, self.levels = pairing.decided_by, ensemble_dim, pairing.levels
        self.areas = {"": pairing.area} if regions is None else dict(regions)
        self.of_array = isinstance(forecast, xarray.DataArray)
        self.name = forecast.name if self.of_array else None
        self.units = {name: sets["forecast"][name].attrs.get("units") for name in pairing.names}
        by = weights if isinstance(weights, str) else "given"
        #: what averages are weighed by
        self.weighed = "quadrature" if weights is None else by
        self._pairing: Pairing | None = pairing
        self._blocks = pairing.blocks()

    @property
    def pieces(self) -> Sequence[Any]:
        return Pieces(len(self._blocks), self._piece)

    def _piece(self, place: int) -> Any:
        if self._pairing is None:
            raise RuntimeError("the data sets stayed in the process that they were given to")
        pair = self._pairing.pair(*self._blocks[place])
        return (self._blocks[place][0], pair.forecast, pair.truth, pair.mask, pair.climatology)

    def map(self, piece: Any) -> Parts:
        place, *sets = piece
        pair = Pair(*(part.load() for part in sets))
        if self.decided_by:
            pair = pair.decided(self.decided_by, self.ensemble_dim)
        found: Parts = {}
        for name, score in self.scores.items():

            def average(values: xarray.Dataset, pair: Pair, score: Score = score) -> xarray.Dataset:
                return self._average(values, pair, score.what)

            found[name] = [(place, score.of_samples(pair, average))]
        return found

    def combine(self, one: Parts, other: Parts) -> Parts:
        return {name: one[name] + other[name] for name in self.scores}

    def finish(self, part: Parts) -> dict[str, Any]:
        """Name of the score → its result, of the same type as the forecast."""
        return {name: self._finish(score, part[name]) for name, score in self.scores.items()}

    def _finish(self, score: Score, parts: list[tuple[int, xarray.Dataset]]) -> Any:
        ordered = [values for _, values in sorted(parts, key=lambda part: part[0])]
        whole = ordered[0] if len(ordered) == 1 else xarray.concat(ordered, self.time)
        over = self.over
        if over is None:
            over = [self.time] if self.time else []
        over = [over] if isinstance(over, str) else list(over)
        if unknown := [dim for dim in over if dim not in whole.dims]:
            raise ValueError(f"over names {unknown}, but the dimensions are {tuple(whole.dims)}")
        mean = whole.mean(over, skipna=False)
        result: Any = np.sqrt(mean) if score.root else mean
        note = {"weights": self.weighed}
        for name in result:
            units = self.units.get(name if score.units == "own" else score.units) if score.units else None
            result[name].attrs = ({} if units is None else {"units": units}) | note
        result.attrs = dict(note)
        if not self.of_array:
            return result
        (name,) = result.data_vars
        return result[name].rename(self.name)

    def _average(self, values: xarray.Dataset, pair: Pair, what: str) -> xarray.Dataset:
        of_regions = [self._of_region(values, pair, what, area) for area in self.areas.values()]
        if "" in self.areas:
            return of_regions[0]
        return xarray.concat(of_regions, "region").assign_coords(region=list(self.areas))

    def _of_region(
        self, values: xarray.Dataset, pair: Pair, what: str, area: xarray.DataArray
    ) -> xarray.Dataset:
        means = {}
        for name, array in values.items():
            mask = None if name not in pair.mask else self._with_its_levels(name, pair.mask[name])
            own = self._with_its_levels(name, array)
            means[name] = area_mean(own, area, mask, f"{what} of {name}")
        return xarray.Dataset(means)  # NaN on the levels that a variable lacks

    def _with_its_levels(self, name: Any, array: xarray.DataArray) -> xarray.DataArray:
        """The array of a variable on the levels that the variable has."""
        dim, levels = self.levels.get(name, (None, []))
        return array.sel({dim: levels}) if dim in array.dims else array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pairing": None}


def given(forecast: Any, truth: Any, **others: Any) -> tuple[dict[str, xarray.Dataset], list[str]]:
    """What is compared, as data sets, and which of them were given as arrays."""
    all_given = {"forecast": forecast, "truth": truth, **others}
    arrays = [name for name, data in all_given.items() if isinstance(data, xarray.DataArray)]
    sets = {name: as_dataset(data) for name, data in all_given.items()}
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


def as_dataset(data: Any) -> xarray.Dataset:
    """The data set, or that of one array."""
    if isinstance(data, xarray.DataArray):
        return data.to_dataset(name="values" if data.name is None else data.name)
    if isinstance(data, xarray.Dataset):
        return data
    raise TypeError(f"scores compare xarray objects, got {type(data).__name__}")
