"""Many stores as one data set, without dask: what is read is read from the stores that hold it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from geoattn.xarray.schema.times import are_dates, check_times, settled
from geoattn.xarray.schema.units import check_units
from geoattn.xarray.stores.reader import check_order
from geoattn.xarray.stores.store import Store


def open_stores(locations: Any) -> xarray.Dataset:
    """One or several stores as one lazy Dataset; several follow one another along their dates.

    Parameters
    ----------
    locations
        As :class:`Store` takes one; or a list of them.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If they have no dates to follow one another by, or differ in anything else; if the dates overlap or
        are out of order.
    """
    listed = list(locations) if isinstance(locations, list | tuple) else [locations]
    if not listed:
        raise ValueError("there is no store to open: name at least one")
    stores = [Store(location) for location in listed]
    if len(stores) == 1:
        return stores[0].dataset
    sets = [store.dataset for store in stores]
    dim = _dates(sets[0], stores[0])
    for ds, store in zip(sets[1:], stores[1:], strict=True):
        _check_alike(ds, sets[0], dim, store, stores[0])
    axes = [ds[dim].values for ds in sets]
    check_order(axes, dim, stores)
    whole = settled(np.concatenate(axes))
    check_times(whole, dim)
    first = sets[0]
    arrays = {name: _joined(stores, str(name), dim) for name, v in first.data_vars.items() if dim in v.dims}
    beside = [name for name, c in first.coords.items() if dim in c.dims and name != dim]
    coords = xarray.concat([ds[beside].drop_vars(dim) for ds in sets], dim).coords if beside else {}
    rest = first.drop_vars([*arrays, *coords, dim])
    times = (dim, whole, first[dim].attrs, first[dim].encoding)
    joined = rest.assign_coords({dim: times, **coords}).assign(arrays)
    return joined[list(first.data_vars)].assign_attrs(first.attrs)


class _Array(BackendArray):
    """One variable of several stores along a dimension."""

    def __init__(self, stores: Sequence[Store], name: str, dim: str) -> None:
        self.stores, self.name = list(stores), name
        like = stores[0].dataset[name]
        self.axis = like.dims.index(dim)
        sizes = [store.dataset.sizes[dim] for store in stores]
        self.borders = np.cumsum([0, *sizes]).tolist()
        self.shape = (*like.shape[: self.axis], self.borders[-1], *like.shape[self.axis + 1 :])
        self.dtype = like.dtype

    def __getitem__(self, key: Any) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """By a number, a slice or a list along each dimension."""
        numbers = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        values = np.empty([len(n) for n in numbers], self.dtype)
        # along the other dimensions: all from the first to the last, of which some are then taken
        around = [slice(int(n.min()), int(n.max()) + 1) if len(n) else slice(0) for n in numbers]
        taken = [n - a.start if len(n) else n for n, a in zip(numbers, around, strict=True)]
        steps = numbers[self.axis]
        for part, (start, stop) in enumerate(pairwise(self.borders)):
            own = np.unique(steps[(steps >= start) & (steps < stop)])
            for run in np.split(own, np.flatnonzero(np.diff(own) > 1) + 1) if len(own) else ():
                around[self.axis] = slice(int(run[0]) - start, int(run[-1]) + 1 - start)
                (read,) = self.stores[part].read([(self.name, tuple(around))])
                places = np.flatnonzero((steps >= run[0]) & (steps <= run[-1]))
                taken[self.axis] = steps[places] - run[0]
                where = [slice(None)] * len(numbers)
                where[self.axis] = places  # type: ignore[call-overload]
                values[tuple(where)] = read[np.ix_(*taken)]
        flat = tuple(0 if isinstance(k, int | np.integer) else slice(None) for k in key)
        return np.asarray(values[flat])


def _joined(stores: Sequence[Store], name: str, dim: str) -> xarray.Variable:
    like = stores[0].dataset[name]
    lazy = indexing.LazilyIndexedArray(_Array(stores, name, dim))
    return xarray.Variable(like.dims, lazy, like.attrs, like.encoding)


def _dates(ds: xarray.Dataset, store: Store) -> str:
    """The dimension along which stores follow one another."""
    dated = [str(dim) for dim in ds.dims if dim in ds.coords and are_dates(ds[dim].values)]
    if len(dated) != 1:
        raise ValueError(
            f"several stores are one where they follow one another along their dates, and the {store} has "
            f"dates along {dated or 'no dimension'} of {tuple(ds.dims)}: join them by xarray, and save that"
        )
    return dated[0]


def _check_alike(ds: xarray.Dataset, first: xarray.Dataset, dim: str, store: Store, other: Store) -> None:
    """Refuse a store that is not of one kind with the first."""
    if set(ds.data_vars) != set(first.data_vars):
        differing = sorted(map(str, set(ds.data_vars) ^ set(first.data_vars)))
        raise ValueError(f"the {store} and the {other} differ in the variables {differing}: leave these out")
    if dim not in ds.coords or not are_dates(ds[dim].values):
        raise ValueError(f"the {store} has no dates along {dim!r}, which the {other} has")
    for name, variable in ds.data_vars.items():
        like = first[name]
        if variable.dims != like.dims or variable.dtype != like.dtype:
            raise ValueError(
                f"{name!r} is {variable.dtype} over {variable.dims} in the {store}, {like.dtype} over "
                f"{like.dims} in the {other}"
            )
        found, wanted = (str(v.attrs.get("units", "")) for v in (variable, like))
        check_units(str(name), found, wanted, f"the {store}", f"the {other}")
    for name, coordinate in ds.coords.items():
        other_one = first.coords.get(name)
        same = other_one is not None and coordinate.variable.equals(other_one.variable)
        if dim not in coordinate.dims and not same:
            raise ValueError(f"the coordinate {name!r} of the {store} is not that of the {other}")
