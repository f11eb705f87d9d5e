"""Steps of a store, or of several that follow one another, as the arrays that a schema describes."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray
from numpy.typing import NDArray

from geoattn.xarray.schema.fit import fit_schema
from geoattn.xarray.schema.levels import places
from geoattn.xarray.schema.schema import Schema, require_schema
from geoattn.xarray.schema.tensors import fill_missing
from geoattn.xarray.schema.times import are_dates, check_calendars, check_times, dating, settled, stamp
from geoattn.xarray.schema.variable import Variable
from geoattn.xarray.stores.boxes import Box, boxes
from geoattn.xarray.stores.parts import Span, check_period, steps_in
from geoattn.xarray.stores.store import DESCRIBED, Given, Store

Masked = tuple[NDArray[Any], NDArray[np.bool_] | None]


@dataclasses.dataclass(frozen=True)
class _Run:
    """Levels of one variable that are read at once, and the channels they fill."""

    variable: Variable
    #: levels of the file; the whole axis if there is none
    levels: slice
    #: which of the levels read the channels take
    chosen: tuple[int, ...]
    channels: tuple[int, ...]


class Reader:
    """Reads steps of time from stores, checking all that the schema says about them.

    Opened lazily in each process; pickles to locations and schema.

    Parameters
    ----------
    stores
        Path, URL or zarr store; or several of them that follow one another in time.
    schema
        The channels to read.
    times
        First and last time to use, ``slice("1979", "2015")``: both are included. All by default.

    Raises
    ------
    TypeError
        If ``schema`` is none, or ``times`` no slice.
    ValueError
        If the schema does not fit, or the times are missing, repeated, unsorted or none.
    """

    def __init__(self, stores: Any, schema: Schema, times: slice | None = None) -> None:
        require_schema(schema)
        if times is not None:
            check_period(times)
        if all(variable.static for variable in schema.variables):
            along = repr(schema.sample_dims[0]) if schema.sample_dims else "any dimension"
            raise ValueError(f"no variable of the schema changes along {along}: {schema!r}")
        if len(schema.sample_dims) != 1:
            *others, _ = sorted(schema.sample_dims, key=lambda dim: dim.lower() == "time")
            raise ValueError(
                f"samples must follow one another along one dimension, but those of the schema have "
                f"{schema.sample_dims}: select one value of the others and save that, "
                f"ds.isel({', '.join(f'{dim}=0' for dim in others)})"
            )
        listed = stores if isinstance(stores, list | tuple) else [stores]
        self.stores = tuple(
            location if isinstance(location, Store) else Store(location) for location in listed
        )
        self.schema = schema
        (self.dim,) = schema.sample_dims
        axes, self._grid_dims = [], []
        for store in self.stores:
            ds = store.dataset
            if self.dim not in ds.coords:
                raise ValueError(
                    f"dimension {self.dim!r} of the {store} has no coordinate: ds.assign_coords({self.dim}=…)"
                )
            self._grid_dims.append(fit_schema(ds, schema))
            _check_dimensions(ds, schema, self.dim, self._grid_dims[-1])
            axes.append(ds[self.dim].values)
            if axes[-1].dtype.kind not in "iufmM" and len(axes[-1]) and not are_dates(axes[-1]):
                raise ValueError(
                    f"{self.dim!r} of the {store} holds {axes[-1].dtype}, neither dates nor numbers: "
                    f"{dating(self.dim, axes[-1].dtype, 'ds', False)}, and save that, ds.to_zarr(path)"
                )
        for store, axis in zip(self.stores, axes, strict=True):
            check_calendars(axis, axes[0], self.dim, f"the {store}", f"the {self.stores[0]}", ("ds", "ds"))
            check_times(settled(axis), self.dim)
        check_order(axes, self.dim, self.stores)
        whole = settled(np.concatenate(axes))
        check_times(whole, self.dim)
        if not len(whole):
            raise ValueError(f"the {self.stores[0]} holds nothing: it has no value along {self.dim!r}")
        self._first, stop = steps_in(whole, self.dim, times)
        #: the times of the steps
        self.times: NDArray[Any] = whole[self._first : stop]
        self._borders = np.cumsum([0, *map(len, axes)]).tolist()
        self._runs = [list(_runs(store, schema)) for store in self.stores]
        self._static: Masked | None = None
        #: the points that are read, flat indices of the grid; None for all
        self.tokens: NDArray[np.int32] | None = None
        self._boxes: dict[tuple[int, str], list[Box]] = {}
        #: of the values read: at least 32 bits, and exact for every variable
        self.dtype = np.result_type(np.float32, *(variable.dtype for variable in schema.variables))

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.times)

    @property
    def span(self) -> Span:
        """The first of its steps among all of the stores, and the one after the last."""
        return self._first, self._first + len(self.times)

    def read(self, steps: slice) -> Masked:
        """Values ``[n, C, *grid.shape]`` of some steps, missing ones filled, and where there were values.

        Of a :meth:`part` they are ``[n, C, points]``. The second is None if the schema declares no mask.

        Raises
        ------
        ValueError
            If a value is missing where the schema declares no mask, naming variable, level and time.
        """
        chosen = range(len(self))[steps]
        shape = self.schema.grid.shape if self.tokens is None else (len(self.tokens),)
        values = np.empty((len(chosen), len(self.schema), *shape), self.dtype)
        mask = np.ones(values.shape, bool) if self.schema.masked else None
        for part, own, rows in self._parts(chosen):
            runs = [run for run in self._runs[part] if not run.variable.static]
            self._read_runs(part, runs, own, values[rows])

        def place(index: Sequence[int]) -> str:
            return f"{self.dim} {stamp(self.times[chosen[index[0]]])}"

        self._fill(values, mask, place, static=False)
        self._put_static(values, mask)
        return values, mask

    def select(self, names: Iterable[str]) -> Reader:
        """A reader of some of the variables, without the checks that have been made."""
        other = copy.copy(self)
        other.schema = self.schema.select(names)
        other._runs = [list(_runs(store, other.schema)) for store in self.stores]
        other._static = None
        other.dtype = np.result_type(np.float32, *(v.dtype for v in other.schema.variables))
        return other

    def of_piece(self, ds: xarray.Dataset, start: int, stop: int) -> Reader:
        """A reader of the steps from ``start`` to before ``stop``, which a data set holds alone."""
        other = copy.copy(self)
        other.stores, other._borders, other._first = (Given(ds),), [0, stop - start], 0
        other.times, other._static, other._boxes = self.times[start:stop], None, {}
        return other

    def piece(self, names: Iterable[str], start: int, stop: int) -> xarray.Dataset:
        """What :meth:`of_piece` takes, lazily, of the one store."""
        (store,) = self.stores
        chosen = store.dataset[list(names)]
        steps = slice(self._first + start, self._first + stop)
        return chosen.isel({self.dim: steps}) if self.dim in chosen.dims else chosen

    def part(self, tokens: NDArray[np.integer]) -> Reader:
        """A reader of some points of the grid, flat indices, which reads no chunk that has none of them."""
        other = copy.copy(self)
        other.tokens, other._boxes, other._static = np.asarray(tokens, np.int32), {}, None
        return other

    def blocks(self, size: int) -> Iterator[slice]:
        """All steps in blocks of about that many bytes, cut where the chunks of the first store end."""
        step_bytes = len(self.schema) * self.schema.grid.size * self.dtype.itemsize
        changing = [v.name for v in self.schema.variables if not v.static]
        chunk = max((self.stores[0].chunk(name, self.dim) for name in changing), default=1)
        length = chunk * max(1, size // (step_bytes * chunk))
        start, stop = 0, length - self._first % chunk
        while start < len(self):
            yield slice(start, min(stop, len(self)))
            start, stop = stop, stop + length

    def fingerprint(self) -> str:
        """A digest that changes when the stores change; see :meth:`Store.fingerprint`."""
        parts = [store.fingerprint(self.schema.names) for store in self.stores]
        if len(parts) == 1 and parts[0].startswith(DESCRIBED):
            return parts[0]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def described(self) -> str:
        """The fingerprint that the data would have, were they given as a data set; "" of several stores."""
        return DESCRIBED + self.stores[0].described(self.schema.names) if len(self.stores) == 1 else ""

    def _parts(self, chosen: range) -> Iterator[tuple[int, slice, slice]]:
        """Which store, which of its steps, and where they go, for the chosen steps."""
        absolute = np.asarray(chosen, dtype=np.int64) + self._first
        for part, (start, stop) in enumerate(pairwise(self._borders)):
            first, end = np.searchsorted(absolute, (start, stop)).tolist()
            if first < end:
                own = slice(int(absolute[first] - start), int(absolute[end - 1] - start) + 1, chosen.step)
                yield part, own, slice(first, end)

    def _read_runs(self, part: int, runs: list[_Run], steps: slice, values: NDArray[Any]) -> None:
        """Read into ``values [n, C, *grid.shape]``, or ``[n, C, points]``."""
        store, grid_dims, shape = self.stores[part], self._grid_dims[part], self.schema.grid.shape
        asked = [(run, box) for run in runs for box in self._boxes_of(part, run.variable.name)]
        selections = []
        for run, box in asked:
            lengths = {self.dim: steps, run.variable.level_dim: run.levels}
            lengths |= zip(grid_dims, box.slices, strict=True) if box else {}
            dims = store.dims(run.variable.name)
            selections.append((run.variable.name, tuple(lengths.get(dim, slice(None)) for dim in dims)))
        for (run, box), given in zip(asked, store.read(selections), strict=True):
            dims = store.dims(run.variable.name)
            wanted = [d for d in (self.dim, run.variable.level_dim) if d in dims] + list(grid_dims)
            given = given.transpose([dims.index(dim) for dim in wanted])
            lead = 1 if run.variable.static else len(values)
            levels = len(range(run.levels.start, run.levels.stop)) if run.variable.level_dim else 1
            given = given.reshape(lead, levels, *(shape if box is None else (-1,)))
            channels = run.channels
            if run.chosen != tuple(range(levels)):
                given = given[:, list(run.chosen)]
            if box is not None:
                values[:, np.array(channels)[:, None], box.places] = given[..., box.inside]
            elif channels == tuple(range(channels[0], channels[-1] + 1)):
                values[:, channels[0] : channels[-1] + 1] = given
            else:
                values[:, list(channels)] = given

    def _boxes_of(self, part: int, name: str) -> Sequence[Box | None]:
        """What is read of the grid: None for all of it."""
        if self.tokens is None:
            return (None,)
        if (part, name) not in self._boxes:
            store, dims = self.stores[part], self._grid_dims[part]
            chunks, sizes = store.chunks(name), store.dataset[name].sizes
            self._boxes[part, name] = boxes(self.tokens, [sizes[d] for d in dims], [chunks[d] for d in dims])
        return self._boxes[part, name]

    def _fill(self, values: NDArray[Any], mask: NDArray[np.bool_] | None, place: Any, static: bool) -> None:
        for variable, channels in zip(self.schema.variables, self.schema.slices, strict=True):
            if variable.static == static:
                hidden = None if mask is None else mask[:, channels]
                fill_missing(values[:, channels], hidden, variable, self.schema, place, self.tokens)

    def _put_static(self, values: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
        """Put the static variables into every step; they are read once."""
        names = [variable.name for variable in self.schema.variables if variable.static]
        if not names:
            return
        channels = self.schema.channels(names)
        if self._static is None:
            whole = np.zeros((1, *values.shape[1:]), self.dtype)
            visible = None if mask is None else np.ones(whole.shape, bool)
            self._read_runs(0, [run for run in self._runs[0] if run.variable.static], slice(None), whole)
            self._fill(whole, visible, lambda index: "", static=True)
            self._static = whole[:, channels], None if visible is None else visible[:, channels]
        static, shown = self._static
        values[:, channels] = static
        if mask is not None and shown is not None:
            mask[:, channels] = shown

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_static": None}


def check_order(axes: Sequence[NDArray[Any]], dim: str, stores: Sequence[Store]) -> None:
    """Refuse stores that do not follow one another, each after the end of the one before."""
    order = sorted((i for i in range(len(axes)) if len(axes[i])), key=lambda i: axes[i][0])
    for one, two in pairwise(order):
        common = int(np.count_nonzero(axes[two] <= axes[one][-1]))
        if common:
            raise ValueError(
                f"the {stores[one]} ends at {stamp(axes[one][-1])}, and the {stores[two]} begins at "
                f"{stamp(axes[two][0])}: leave out what both have of the second and save that, "
                f"ds.isel({dim}=slice({common}, None))"
            )
    if order != sorted(order):
        starts = ", ".join(stamp(axis[0]) for axis in axes if len(axis))
        raise ValueError(
            f"the stores do not follow one another, they begin at {starts}. Sort them: "
            f"stores = [stores[i] for i in {order}]"
        )


def _check_dimensions(ds: Any, schema: Schema, dim: str, grid_dims: tuple[str, ...]) -> None:
    """Refuse variables with dimensions that neither channels nor steps come from."""
    for variable in schema.variables:
        wanted = {variable.level_dim, *grid_dims, *([] if variable.static else [dim])} - {""}
        found = set(map(str, ds[variable.name].dims))
        if extra := sorted(found - wanted):
            raise ValueError(
                f"{variable.name!r} has the dimensions {ds[variable.name].dims}, and {extra[0]!r} is not "
                "among "
                f"the schema's: select one value of it and save that, ds.isel({extra[0]}=0)"
            )
        if absent := sorted(wanted - found):
            raise ValueError(
                f"{variable.name!r} has the dimensions {ds[variable.name].dims}, without {absent}"
            )


def _runs(store: Store, schema: Schema) -> Iterator[_Run]:
    """The reads of a store: levels are read together unless that would read a whole chunk in vain."""
    for variable, channels in zip(schema.variables, schema.slices, strict=True):
        if not variable.level_dim:
            yield _Run(variable, slice(None), (0,), (channels.start,))
            continue
        found = places(variable.levels, store.dataset[variable.level_dim].values).tolist()
        chunk = store.chunk(variable.name, variable.level_dim)
        wanted = sorted((place, channels.start + i) for i, place in enumerate(found))
        group = wanted[:1]
        for position, channel in wanted[1:]:
            if position // chunk - group[-1][0] // chunk > 1:
                yield _run(variable, group)
                group = []
            group.append((position, channel))
        yield _run(variable, group)


def _run(variable: Variable, group: list[tuple[int, int]]) -> _Run:
    start = group[0][0]
    positions, channels = zip(*group, strict=True)
    chosen = tuple(position - start for position in positions)
    return _Run(variable, slice(start, positions[-1] + 1), chosen, channels)
