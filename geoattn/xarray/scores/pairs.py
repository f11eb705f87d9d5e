"""A forecast beside what it is scored against: the same points, levels and valid times."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import xarray

from geoattn.grids import recognise
from geoattn.xarray.fields import weights
from geoattn.xarray.schema.dimensions import SAMPLES, is_level
from geoattn.xarray.schema.fit import (
    check_axis,
    check_points,
    fit_mask,
    fit_points,
    fit_variables,
)
from geoattn.xarray.schema.levels import check_once, places, selecting
from geoattn.xarray.schema.schema import all_on_grid, describes_grid
from geoattn.xarray.schema.times import check_calendars, stamp
from geoattn.xarray.schema.values import check_numbers, refuse_labels
from geoattn.xarray.schema.variable import OWN_LEVELS
from geoattn.xarray.scores.lead_times import (
    INITIAL,
    TIME,
    decoded,
    initial_time,
    lead_time,
    time_of,
    valid_times,
)
from geoattn.xarray.stores.looking import look

#: about how many bytes of a forecast are compared at once
BLOCK_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Pair:
    """Some initial times of a forecast, and the truth at its points, levels and valid times."""

    forecast: xarray.Dataset
    truth: xarray.Dataset
    #: True where a point counts, for each variable; empty if all do, or what is there decides
    mask: xarray.Dataset
    #: the climatology at the valid times; empty if there is none
    climatology: xarray.Dataset

    def decided(self, by: str, ensemble_dim: str) -> Pair:
        """With the mask of what is there, of values that are loaded: of the truth, or of both."""
        mask = self.truth.notnull()
        if by == "both":
            shown = self.forecast[list(self.truth.data_vars)].notnull()
            mask = mask & (shown.all(ensemble_dim) if ensemble_dim in shown.dims else shown)
        return dataclasses.replace(self, mask=mask)


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
        None, ``"truth"``, ``"both"``, a DataArray or a Dataset.
    climatology
        Dataset over ``dayofyear`` and perhaps ``hour``, or None.
    ensemble_dim
        A dimension that the forecast alone has, or ``""``.
    arrays
        Which of forecast, truth and climatology were given as DataArrays.
    """

    def __init__(
        self,
        forecast: xarray.Dataset,
        truth: xarray.Dataset,
        *,
        area: xarray.DataArray | str | None = None,
        mask: Any = None,
        climatology: xarray.Dataset | None = None,
        ensemble_dim: str = "",
        arrays: Collection[str] = (),
    ) -> None:
        self.arrays = {*arrays, *(["mask"] if isinstance(mask, xarray.DataArray) else [])}
        _refuse_empty(forecast, "forecast")
        by = area if isinstance(area, str) else "quadrature"
        if by not in ("quadrature", "area"):
            raise ValueError(f"weights must be 'quadrature', 'area' or a DataArray, got {by!r}")
        by_name = area is not None and not isinstance(area, str)
        if by_name and not isinstance(area, xarray.DataArray):
            raise TypeError(
                f"weights must be an xarray DataArray, got {type(area).__name__}: those of a data set are "
                "ga.xarray.weights(ds)"
            )
        taken = area if isinstance(area, xarray.DataArray) else weights(forecast, by=by)
        taken = _at_levels(taken, forecast, "weights") if by_name else taken
        dims = tuple(map(str, taken.dims))
        self.names = all_on_grid(forecast, dims, "forecast")
        _refuse_others(forecast, self.names, dims)
        self.area = _given_weights(taken, forecast[self.names[0]]) if by_name else taken
        for name in self.names:
            check_numbers(forecast[name], "forecast" if "forecast" in arrays else f"forecast[{name!r}]")
        self.ensemble_dim = ensemble_dim
        if ensemble_dim in {*dims, initial_time(forecast), lead_time(forecast)}:
            raise ValueError(
                f"{ensemble_dim!r} is the dimension of the forecast's times or points, not of members of an "
                "ensemble. Name theirs: ensemble_dim=…"
            )
        if ensemble_dim and any(ensemble_dim not in forecast[name].dims for name in self.names):
            raise ValueError(
                f"the forecast has no ensemble dimension {ensemble_dim!r}: its dimensions are "
                f"{tuple(forecast.dims)}. Name it: ensemble_dim=…"
            )
        self.forecast = decoded(fields_of(forecast, self.names), "forecast", "forecast" in arrays)
        self.time, self.lead = initial_time(self.forecast), lead_time(self.forecast)
        same_grid = _same_names if by_name else _same_grid
        units = {name: str(forecast[name].attrs.get("units", "")) for name in self.names}
        fit_variables(truth, units, "truth", "forecast", "truth" in arrays)
        for what, ds in (("forecast", forecast), ("truth", truth)):
            for name in self.names:
                call = what if what in arrays else f"{what}[{name!r}]"
                refuse_labels(ds[name], call, f"Score the share of each, {call} == …, or leave them out")
        whole = decoded(fields_of(truth, self.names), "truth", "truth" in arrays)
        self.truth = self._comparable(whole, same_grid, forecast, "truth")
        self.climatology = xarray.Dataset()
        if climatology is not None:
            fit_variables(climatology, units, "climatology", "forecast", "climatology" in arrays)
            chosen = fields_of(climatology, self.names)
            if (dated := initial_time(chosen)) is not None:
                raise ValueError(
                    f"the climatology has times along {dated!r}, not days of the year: make one of it, "
                    f"ga.xarray.metrics.climatology(climatology, time={dated!r})"
                )
            self.climatology = self._comparable(chosen, same_grid, forecast, "climatology")
        self.mask, self.decided_by = self._masks(mask, forecast)
        #: name → the dimension of its levels and those it has, where other variables have more
        self.levels = {name: own for name in self.names if (own := self._own_levels(name)) is not None}
        self.area = _bare(self.area.to_dataset(name="area"), dims)["area"]
        self.forecast = _bare(self.forecast, dims)

    def _own_levels(self, name: str) -> tuple[str, list[Any]] | None:
        """The levels of a variable whose data set has more: as its attribute says, or where truth and
        forecast, at their first times, hold nothing on the others."""
        array, truth = self.forecast[name], self.truth[name]
        known = {*self.area.dims, self.time, self.lead, self.ensemble_dim, *SAMPLES}
        dims = [dim for dim in array.dims if dim not in known and dim in array.coords and dim in truth.dims]
        if len(dims) != 1:
            return None
        (dim,) = dims
        there = array[dim].values.tolist()
        if OWN_LEVELS in array.attrs:
            stated = json.loads(array.attrs[OWN_LEVELS])
            return str(dim), [level for level, i in zip(there, places(there, stated), strict=True) if i >= 0]
        empty = np.ones(len(there), bool)
        for part in (array, truth):
            first = part.isel({d: 0 for d in part.dims if d != dim and d not in self.area.dims})
            empty &= first.isnull().all([d for d in first.dims if d != dim]).values
        kept = [level for level, nothing in zip(there, empty, strict=True) if not nothing]
        return (str(dim), kept) if empty.any() and kept else None

    def blocks(self) -> list[tuple[int, int]]:
        """The first initial time of each block, and that of the next."""
        if self.time is None:
            return [(0, 1)]
        count = self.forecast.sizes[self.time]
        step = max(self.forecast.nbytes // max(count, 1), 1)
        size = max(1, BLOCK_BYTES // step)
        chunks = [v.chunksizes.get(self.time, (1,))[0] for v in self.forecast.data_vars.values()]
        chunk = max(chunks, default=1)  # of dask: a block is of whole chunks, unless these are large
        if size % chunk and chunk * step <= 8 * BLOCK_BYTES:
            size = max(1, size // chunk) * chunk
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def pair(self, start: int, stop: int) -> Pair:
        """The initial times from ``start`` to before ``stop``; nothing is read."""
        if self.time is None:
            return self._pair(self.forecast)
        return self._pair(self.forecast.isel({self.time: slice(start, stop)}))

    def _pair(self, forecast: xarray.Dataset) -> Pair:
        valid = valid_times(forecast)
        truth = at_times(self.truth, valid, "truth", "truth" in self.arrays)
        mask = at_times(self.mask, valid, "mask", "mask" in self.arrays)
        chosen = self.climatology
        if len(chosen):
            if valid is None or valid.dtype.kind not in "MO":
                raise ValueError("anomalies need the forecast's valid times: it has no dates")
            chosen = chosen.isel(
                {
                    name: matched(chosen, name, getattr(valid.dt, name), "climatology")
                    for name in ("dayofyear", "hour")
                    if name in chosen.dims
                }
            )
            chosen = _without_labels(chosen, valid)
        return Pair(forecast, truth, mask, chosen)

    def _comparable(
        self, other: xarray.Dataset, same_grid: Any, forecast: xarray.Dataset, what: str
    ) -> xarray.Dataset:
        """Another data set under the names of the forecast's dimensions, at its levels."""
        dims = tuple(map(str, self.area.dims))
        _refuse_empty(other, what)
        other = same_grid(other, forecast, dims, what)
        _check_single_levels(other, self.forecast, what)
        times = {self.time, initial_time(other), *TIME, "dayofyear", "hour"}
        own = {*dims, self.lead, self.ensemble_dim, *times}
        for dim in {dim for name in self.names for dim in self.forecast[name].dims} - own:
            other = self._called_alike(other, dim, own)
            named = [ds for ds in (self.forecast, other) if dim in ds.coords]
            if len(named) == 1 and dim in other.dims and dim not in SAMPLES:
                one, two = ("forecast", what) if named[0] is other else (what, "forecast")
                raise ValueError(
                    f"the {one} has no coordinate along {dim!r} that tells which values these are, the {two} "
                    f"has {named[0][dim].values}: {one} = {one}.assign_coords({dim}={two}[{dim!r}]) if "
                    "they are"
                )
            if dim in self.forecast.coords and dim in other.coords:
                other = other.isel({dim: matched(other, str(dim), self.forecast[dim], what)})
                other = other.assign_coords({dim: self.forecast[dim].values})
            elif dim not in other.dims and (what == "mask" or dim in SAMPLES):
                continue  # the same for all
            elif dim not in other.dims:
                size = self.forecast.sizes[dim]
                values = f"forecast[{dim!r}]" if dim in self.forecast.coords else size
                raise ValueError(
                    f"the forecast has {size} values along {dim!r}, the {what} has no such dimension: "
                    f"{what} = {what}.expand_dims({{{dim!r}: {values}}}) if it is the same for all"
                )
            elif other.sizes[dim] != self.forecast.sizes[dim]:
                raise ValueError(
                    f"the forecast has {self.forecast.sizes[dim]} values along {dim!r}, the {what} "
                    f"{other.sizes[dim]}, and neither has a coordinate that tells which these are: forecast "
                    f"= forecast.assign_coords({{{dim!r}: […]}}), and {what} = "
                    f"{what}.assign_coords({{{dim!r}: […]}})"
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
        twins = [d for d in twins if (places(levels, other[d].values) >= 0).all()]
        return other.rename({twins[0]: dim}) if len(twins) == 1 else other

    def _masks(self, mask: Any, forecast: xarray.Dataset) -> tuple[xarray.Dataset, str]:
        """The masks that are given, or nothing, and which data sets decide instead."""
        if mask is None or (isinstance(mask, str) and mask in ("truth", "both")):
            return xarray.Dataset(), mask or ""
        several = isinstance(mask, xarray.Dataset)
        if several:
            fit_variables(mask, dict.fromkeys(self.names, ""), "mask", "forecast")
        dims, fitting = [str(dim) for dim in self.area.dims], {}
        for name in self.names:
            own, call = (mask[name], f"mask[{name!r}]") if several else (mask, "mask")
            fitting[name] = fit_mask(own, forecast[name], dims, call, "forecast", others=False)
        ds = decoded(xarray.Dataset(fitting), "mask", "mask" in self.arrays)
        return self._comparable(ds, lambda ds, *_: ds, forecast, "mask"), ""


def _given_weights(area: Any, field: xarray.DataArray) -> xarray.DataArray:
    """Weights that replace the grid's, once they are known to be such, at the points of the field."""
    if area.dtype.kind not in "biuf" or not bool((np.isfinite(area) & (area >= 0)).all()):
        raise ValueError(
            f"weights must be finite numbers of at least 0, got {area.dtype} from {area.values.min()} to "
            f"{area.values.max()}: leave points out by weights.where(counts, 0.0)"
        )
    if not bool((area > 0).any()):
        raise ValueError("weights are 0 everywhere: there is nothing to average over")
    return fit_points(area, field, [str(dim) for dim in area.dims], "weights", "forecast")


def fields_of(ds: xarray.Dataset, names: Sequence[Any]) -> xarray.Dataset:
    """Some variables, with the bounds of their cells: xarray leaves out what has corners."""
    chosen = ds[list(names)]
    told = [n for n in ds.variables if n not in chosen.variables and describes_grid(ds, n)]
    there = [n for n in told if set(ds[n].dims) & set(chosen.dims)]
    return chosen.assign_coords({name: ds[name].variable for name in there})


def _same_grid(
    other: xarray.Dataset, forecast: xarray.Dataset, dims: tuple[str, ...], what: str
) -> xarray.Dataset:
    """``other`` with its grid's dimensions named as the forecast's, once the grids are known to be one."""
    mine, theirs = recognise(forecast), recognise(other)
    check_points(theirs, mine.grid, what, "forecast", "forecast", lambda: _has_gaps(other, theirs.dims))
    return _renamed(other, dict(zip(theirs.dims, dims, strict=True)))


def _has_gaps(ds: xarray.Dataset, dims: tuple[str, ...]) -> bool:
    """Whether values are missing, in the steps that are looked at."""
    fields = {
        str(name): [str(dim) for dim in v.dims if dim not in dims]
        for name, v in ds.data_vars.items()
        if set(dims) <= set(map(str, v.dims)) and v.dtype.kind == "f"
    }
    return any(one.missing for one in look(ds, fields).values())


def _same_names(
    other: xarray.Dataset, forecast: xarray.Dataset, dims: tuple[str, ...], what: str
) -> xarray.Dataset:
    """``other``, once the coordinates of dimensions of the same name are known to be equal."""
    other = _at_levels(other, forecast, what)
    for dim in dims:
        if dim not in other.dims:
            raise ValueError(
                f"the {what} lacks the dimension {dim!r} of the weights: it has {tuple(other.dims)}"
            )
        check_axis(dim, other[dim].values, forecast[dim].values, what, "forecast")
    return other


def _at_levels(other: Any, forecast: xarray.Dataset, what: str) -> Any:
    """What has levels, at those of the forecast, each by its label."""
    for dim in other.dims:
        if dim in other.coords and dim in forecast.dims and is_level(forecast, str(dim)):
            found = matched(other, str(dim), forecast[dim], what)
            other = other.isel({dim: found}).assign_coords({dim: forecast[dim].values})
    return other


def _refuse_others(forecast: xarray.Dataset, names: Sequence[str], dims: tuple[str, ...]) -> None:
    """Refuse numbers elsewhere than on the points that are averaged over: nothing is dropped unsaid."""
    others = [
        str(name)
        for name, variable in forecast.data_vars.items()
        if variable.dims
        and variable.dtype.kind in "biuf"
        and name not in names
        and not describes_grid(forecast, name)
    ]
    if others:
        told = ", ".join(f"{name!r} over {forecast[name].dims}" for name in others)
        raise ValueError(
            f"the forecast's {told} lies not on the points {dims} that are averaged over: leave it out, "
            f"forecast.drop_vars({others})"
        )


def _renamed(ds: xarray.Dataset, names: Mapping[str, str]) -> xarray.Dataset:
    changed = {old: new for old, new in names.items() if old != new}
    return ds.drop_vars([n for n in changed if n in ds.coords]).rename_dims(changed) if changed else ds


def _bare(ds: xarray.Dataset, dims: tuple[str, ...]) -> xarray.Dataset:
    """Without the coordinates of the points and without scalars: points are matched by their place."""
    keep = {
        lead_time(ds),
        time_of(ds),
        *(n for n, c in ds.coords.items() if INITIAL in (n, c.attrs.get("standard_name"))),
    }
    return ds.drop_vars(
        [n for n, c in ds.coords.items() if n not in keep and (set(c.dims) & set(dims) or not c.dims)]
    )


def at_times(ds: xarray.Dataset, valid: xarray.DataArray | None, what: str, of_array: bool) -> xarray.Dataset:
    """The data set at the valid times; as it is if it has no times, or is a mask of one."""
    dim = initial_time(ds)
    if dim is None:
        dim = time_of(ds)
        if dim is None or what == "mask" or valid is None:
            return ds.drop_vars([name for name in (dim, lead_time(ds)) if name in ds.coords])
        ds = ds.expand_dims(dim)
    if (lead := lead_time(ds)) in ds.dims:
        raise ValueError(
            f"the {what} has lead times of its own along {lead!r}: select one, {what}.isel({lead}=0)"
        )
    if lead is not None:  # of one lead time: what is looked for are its valid times
        own = valid_times(ds)
        assert own is not None  # it has times
        ds = ds.assign_coords({dim: (dim, own.values)}).drop_vars(lead)
    if valid is None:
        raise ValueError(
            f"the {what} has the dimension {dim!r}, the forecast no time: select one, {what}.sel(…)"
        )
    coordinates = dim in ds.coords, valid.name not in valid.dims or valid.name in valid.coords
    if not all(coordinates) and (any(coordinates) or ds.sizes[dim] != valid.size):
        without = what if coordinates[1] else "forecast"
        raise ValueError(
            f"{dim!r} has no coordinate in the {without} that tells which times these are: {without} = "
            f"{without}.assign_coords({{{dim!r}: pandas.to_datetime(['…'])}})"
        )
    times = ds[dim].values, valid.values.ravel()
    check_calendars(*times, dim, f"the {what}", "the forecast", (what, "forecast"), of_array)
    return _without_labels(ds.isel({dim: matched(ds, dim, valid, what)}), valid)


def _without_labels(ds: xarray.Dataset, valid: xarray.DataArray) -> xarray.Dataset:
    """Without the coordinates that selection by valid time leaves; the forecast's own are what remains."""
    return ds.drop_vars([n for n, c in ds.coords.items() if set(c.dims) & set(valid.dims) or not c.dims])


def _refuse_empty(ds: xarray.Dataset, what: str) -> None:
    for dim, size in ds.sizes.items():
        if not size:
            raise ValueError(f"the {what} holds nothing: it has no value along {dim!r}")


def _check_single_levels(other: xarray.Dataset, forecast: xarray.Dataset, what: str) -> None:
    """Refuse one level of something where the forecast is of another one level."""
    for name, mine in forecast.coords.items():
        if mine.dims or name not in other.coords or other[name].dims or not is_level(forecast, str(name)):
            continue
        if places([mine.item()], [other[name].item()])[0] < 0:
            raise ValueError(
                f"the forecast is of {name!r} {mine.item()}, the {what} of {other[name].item()}: select the "
                f"same of both, ds.sel({name}={mine.item()!r})"
            )


def matched(ds: xarray.Dataset, dim: str, labels: xarray.DataArray, what: str) -> xarray.DataArray:
    """The places of the labels in the data set, without coordinates, once all are known to be there."""
    there, own = ds[dim].values, labels.name
    check_once(there, dim, what)
    found = places(labels.values.ravel(), there).reshape(labels.shape)
    absent = found < 0
    if absent.any():
        # the forecast's own labels, not valid times that are made of two
        common = labels.dims == (own,) and not absent.all() and (places(there, labels.values) >= 0).all()
        call = selecting("forecast", what, str(own), labels.values, there) if common else ""
        remedy = f": select what both have, {call}" if common else ""
        others, first = int(absent.sum()) - 1, labels.values[absent].reshape(-1)[0]
        shown = stamp(first) if labels.dtype.kind == "m" else first
        more = f" and {others} more" if others else ""
        raise ValueError(
            f"the {what} lacks {dim} {shown}{more} "
            f"that the forecast has: it has {len(there)}, {there[0]} to {there[-1]}{remedy}"
        )
    return xarray.DataArray(found, dims=labels.dims)
