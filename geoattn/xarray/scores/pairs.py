"""A forecast beside what it is scored against: the same points, levels and valid times."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray

from geoattn.grids import recognise
from geoattn.xarray.fields import weights
from geoattn.xarray.schema.dimensions import SAMPLES
from geoattn.xarray.schema.schema import on_grid

#: names in use for the dimensions of a forecast: its initial time, and the time since then
TIME = ("time", "init_time", "forecast_reference_time", "valid_time")
LEAD = ("prediction_timedelta", "lead_time", "step", "forecast_period")
#: about how many bytes of a forecast are compared at once
BLOCK_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Pair:
    """Some initial times of a forecast, and the truth at its points, levels and valid times."""

    forecast: xarray.Dataset
    truth: xarray.Dataset
    #: True where a point counts, for each variable; empty if all do
    mask: xarray.Dataset
    #: the climatology at the valid times; empty if there is none
    climatology: xarray.Dataset


class Pairing:
    """Matches a forecast to truth, mask and climatology once, then hands out blocks of initial times.

    Everything is matched by label: variables by name, levels and times by coordinate, points by the
    recognised grid. Nothing is dropped for want of a counterpart.

    Parameters
    ----------
    forecast
        Dataset with its own dimensions of time, lead time and so on.
    truth
        Dataset with the forecast's variables at its valid times.
    area
        Weights over the grid's dimensions; those of the recognised grid if None.
    mask
        None, ``"truth"``, a DataArray or a Dataset.
    climatology
        Dataset over ``dayofyear`` and perhaps ``hour``, or None.
    ensemble_dim
        A dimension that the forecast alone has, or ``""``.
    """

    def __init__(
        self,
        forecast: xarray.Dataset,
        truth: xarray.Dataset,
        *,
        area: xarray.DataArray | None = None,
        mask: Any = None,
        climatology: xarray.Dataset | None = None,
        ensemble_dim: str = "",
    ) -> None:
        given = area is not None
        self.area = weights(forecast) if area is None else area
        dims = tuple(map(str, self.area.dims))
        self.names = on_grid(forecast, dims)
        if not self.names:
            raise ValueError(f"no variable of the forecast lies on {dims}: {list(forecast.data_vars)}")
        if absent := [name for name in self.names if name not in truth]:
            raise ValueError(
                f"the forecast has {absent}, the truth only {list(truth.data_vars)}: choose, forecast[[…]]"
            )
        self.ensemble_dim = ensemble_dim
        if ensemble_dim and any(ensemble_dim not in forecast[name].dims for name in self.names):
            raise ValueError(
                f"the forecast has no ensemble dimension {ensemble_dim!r}: its dimensions are "
                f"{tuple(forecast.dims)}. Name it: ensemble_dim=…"
            )
        self.forecast = forecast[self.names]
        self.time = _first_of(TIME, self.forecast)
        self.lead = _first_of(LEAD, self.forecast)
        same_grid = _same_names if given else _same_grid
        self.truth = self._comparable(truth[self.names], same_grid, forecast, "truth")
        self.climatology = xarray.Dataset()
        if climatology is not None:
            if absent := [name for name in self.names if name not in climatology]:
                raise ValueError(f"the climatology lacks {absent}: it has {list(climatology.data_vars)}")
            chosen = climatology[self.names]
            self.climatology = self._comparable(chosen, same_grid, forecast, "climatology")
        self.mask, self.truth_decides = self._masks(mask, same_grid, forecast)
        self.area = _bare(self.area.to_dataset(name="area"), dims)["area"]
        self.forecast = _bare(self.forecast, dims)

    def blocks(self) -> Iterator[Pair]:
        """The pairs, some initial times at a time."""
        if self.time is None:
            yield self._pair(self.forecast)
            return
        count = self.forecast.sizes[self.time]
        size = max(1, BLOCK_BYTES * count // max(self.forecast.nbytes, 1))
        for start in range(0, count, size):
            yield self._pair(self.forecast.isel({self.time: slice(start, start + size)}))

    def _pair(self, forecast: xarray.Dataset) -> Pair:
        valid = self._valid_times(forecast)
        truth = _at_times(self.truth, valid, "truth").load()
        mask = _at_times(self.mask, valid, "mask").load()
        if self.truth_decides:
            mask = truth.notnull()
        chosen = self.climatology
        if len(chosen):
            if valid is None or valid.dtype.kind not in "MO":
                raise ValueError("anomalies need the forecast's valid times: it has no dates")
            chosen = chosen.sel(
                {
                    name: _found(chosen, name, getattr(valid.dt, name), "climatology")
                    for name in ("dayofyear", "hour")
                    if name in chosen.dims
                }
            )
        return Pair(forecast.load(), truth, mask, _without_labels(chosen.load()))

    def _valid_times(self, forecast: xarray.Dataset) -> xarray.DataArray | None:
        if self.time is None:
            return None
        times = forecast[self.time]
        lead = self.lead or next((name for name in LEAD if name in forecast.coords), None)
        if lead is None:
            return times
        if forecast[lead].dtype.kind != "m":
            raise ValueError(
                f"{lead!r} holds {forecast[lead].dtype}, not lengths of time: open the forecast with "
                "decode_timedelta=True"
            )
        since = forecast[lead]
        if times.dtype.kind == "O":  # dates of other calendars
            lengths = np.asarray(since.values.astype("timedelta64[us]").astype(object))
            coords = {**times.coords, **since.coords}
            values = np.add.outer(times.values, lengths)
            return xarray.DataArray(values, coords, (*times.dims, *since.dims))
        return times + since

    def _comparable(
        self, other: xarray.Dataset, same_grid: Any, forecast: xarray.Dataset, what: str
    ) -> xarray.Dataset:
        """Another data set under the names of the forecast's dimensions, at its levels."""
        dims = tuple(map(str, self.area.dims))
        other = same_grid(other, forecast, dims, what)
        own = {*dims, self.time, self.lead, self.ensemble_dim, *TIME, "dayofyear", "hour"}
        for dim in {dim for name in self.names for dim in self.forecast[name].dims} - own:
            other = self._called_alike(other, dim, own)
            if dim in self.forecast.coords and dim in other.coords:
                other = other.sel({dim: _found(other, str(dim), self.forecast[dim], what)})
            elif dim not in other.dims and (what == "mask" or dim in SAMPLES):
                continue  # the same for all
            elif other.sizes.get(dim) != self.forecast.sizes[dim]:
                raise ValueError(
                    f"the forecast has {self.forecast.sizes[dim]} values along {dim!r}, the {what} "
                    f"{other.sizes.get(dim, 'no such dimension')}"
                )
        for name in other.data_vars:
            if extra := [d for d in other[name].dims if d not in {*self.forecast[name].dims, *own}]:
                raise ValueError(
                    f"variable {name!r} of the {what} has dimensions {extra} that the forecast lacks: select "
                    f"from them, {what}.sel(…)"
                )
        return _bare(other, dims)

    def _called_alike(self, other: xarray.Dataset, dim: Any, own: set[Any]) -> xarray.Dataset:
        """``other`` with the one dimension that holds the forecast's levels under the forecast's name."""
        if dim in other.dims or dim in SAMPLES or dim not in self.forecast.coords:
            return other
        levels, known = self.forecast[dim].values, {*own, *self.forecast.dims}
        twins = [d for d in other.dims if d not in known and d in other.coords]
        twins = [d for d in twins if np.isin(levels, other[d].values).all()]
        return other.rename({twins[0]: dim}) if len(twins) == 1 else other

    def _masks(self, mask: Any, same_grid: Any, forecast: xarray.Dataset) -> tuple[xarray.Dataset, bool]:
        if mask is None or (isinstance(mask, str) and mask == "truth"):
            return xarray.Dataset(), mask is not None
        if isinstance(mask, xarray.DataArray):
            mask = mask.reset_coords(drop=True) if mask.name in mask.coords else mask
            mask = xarray.Dataset(dict.fromkeys(self.names, mask), mask.coords)
        if not isinstance(mask, xarray.Dataset):
            raise TypeError(f"mask must be None, 'truth', a DataArray or a Dataset, got {mask!r}")
        if absent := [name for name in self.names if name not in mask]:
            raise ValueError(f"the mask lacks the variables {absent}: it has {list(mask.data_vars)}")
        if wrong := [name for name in self.names if mask[name].dtype.kind != "b"]:
            raise ValueError(
                f"mask[{wrong[0]!r}] holds {mask[wrong[0]].dtype}: a mask is True where a point counts"
            )
        return self._comparable(mask[self.names], same_grid, forecast, "mask"), False


def _same_grid(
    other: xarray.Dataset, forecast: xarray.Dataset, dims: tuple[str, ...], what: str
) -> xarray.Dataset:
    """``other`` with its grid's dimensions named as the forecast's, once the grids are known to be one."""
    mine, theirs = recognise(forecast), recognise(other)
    if mine.grid != theirs.grid:
        raise ValueError(
            f"the forecast lies on the {mine.grid!r}, the {what} on the {theirs.grid!r}: bring one to the "
            f"other, ga.xarray.regrid(forecast, {what}), or to the same order"
        )
    return _renamed(other, dict(zip(theirs.dims, dims, strict=True)))


def _same_names(
    other: xarray.Dataset, forecast: xarray.Dataset, dims: tuple[str, ...], what: str
) -> xarray.Dataset:
    """``other``, once the coordinates of dimensions of the same name are known to be equal."""
    for dim in dims:
        if dim not in other.dims:
            raise ValueError(
                f"the {what} lacks the dimension {dim!r} of the weights: it has {tuple(other.dims)}"
            )
        mine, theirs = forecast[dim].values, other[dim].values
        if not np.array_equal(mine, theirs):
            raise ValueError(f"forecast and {what} differ along {dim!r}: {mine} and {theirs}")
    return other


def _renamed(ds: xarray.Dataset, names: Mapping[str, str]) -> xarray.Dataset:
    changed = {old: new for old, new in names.items() if old != new}
    return ds.drop_vars([n for n in changed if n in ds.coords]).rename_dims(changed) if changed else ds


def _bare(ds: xarray.Dataset, dims: tuple[str, ...]) -> xarray.Dataset:
    """Without the coordinates of the points and without scalars: points are matched by their place."""
    keep = set(LEAD)
    return ds.drop_vars(
        [n for n, c in ds.coords.items() if n not in keep and (set(c.dims) & set(dims) or not c.dims)]
    )


def _at_times(ds: xarray.Dataset, valid: xarray.DataArray | None, what: str) -> xarray.Dataset:
    """The data set at the valid times; as it is if it has no times."""
    dim = _first_of(TIME, ds)
    if dim is None:
        return ds
    if valid is None:
        raise ValueError(
            f"the {what} has the dimension {dim!r}, the forecast no time: select one, {what}.sel(…)"
        )
    return _without_labels(ds.sel({dim: _found(ds, dim, valid, what)}))


def _without_labels(ds: xarray.Dataset) -> xarray.Dataset:
    """Without the coordinates that selection by valid time leaves; the forecast's own are what remains."""
    return ds.drop_vars([n for n in ds.coords if n in {*TIME, *LEAD, "dayofyear", "hour"}])


def _found(ds: xarray.Dataset, dim: str, labels: xarray.DataArray, what: str) -> xarray.DataArray:
    """The labels, once all are known to be there."""
    absent = ~np.isin(labels.values, ds[dim].values)
    if absent.any():
        there = ds[dim].values
        raise ValueError(
            f"the {what} lacks {dim} {labels.values[absent].reshape(-1)[0]} and {int(absent.sum()) - 1} more "
            f"that the forecast has: it has {len(there)}, {there[0]} to {there[-1]}"
        )
    return labels


def _first_of(names: tuple[str, ...], ds: xarray.Dataset) -> str | None:
    return next((name for name in names if name in ds.dims), None)
