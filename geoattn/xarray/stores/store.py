"""A store on disk: described by xarray, read by the fastest route that gives the same values."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from numpy.typing import NDArray

from geoattn import _extras
from geoattn._threads import run_all
from geoattn.xarray.stores.chunks import LocalArray, Task
from geoattn.xarray.stores.zarr_private import is_consolidated, read_all

#: how fingerprints begin that cover the description of data alone
DESCRIBED = "described:"
#: name of a variable, and what is read of each of its dimensions
Selection = tuple[str, tuple[slice, ...]]


class Store:
    """One zarr store (format 2 or 3) or netCDF file.

    Holds the location only: it is opened on first use in each process, never carried across a fork,
    and pickles to its location. Chunks of plainly stored zarr arrays on a local disk are read directly,
    on as many threads as torch uses; other zarr arrays by zarr, with zarr 3 all arrays of a request at once;
    netCDF through xarray without dask. Packed values are decoded by xarray's own rules.

    Parameters
    ----------
    location
        Path or URL of a zarr store, path of a zarr store in a zip file, path of a netCDF file or of a group
        in one, ``file.nc/group``, or a store object of zarr.

    Raises
    ------
    FileNotFoundError
        If there is nothing at a path.
    ValueError
        If all variables are in groups: the message names them.
    """

    def __init__(self, location: Any) -> None:
        if isinstance(location, xarray.Dataset | xarray.DataArray):
            raise TypeError(
                f"expected the path of a store, so that every worker opens it by itself; got an opened "
                f"{type(location).__name__}. Pass the path, or save it first: ds.to_zarr(path)"
            )
        if type(location).__name__ == "ZipStore":  # open, it has one position in its file for all processes
            location = location.path
        self.location = os.fspath(location) if isinstance(location, Path) else location
        self.local = isinstance(self.location, str) and "://" not in self.location
        #: the group of a netCDF file that holds the variables, "" for the file's own
        self.group = ""
        if self.local and not os.path.exists(self.location):
            self.location, self.group = _split_group(self.location)
        self.is_zip = self.local and os.path.isfile(self.location) and zipfile.is_zipfile(self.location)
        self.is_zarr = self.is_zip or not (self.local and os.path.isfile(self.location))
        self._opened: dict[str, Any] = {}
        self._process = -1

    @property
    def dataset(self) -> xarray.Dataset:
        """The decoded data set, without dask: data are read where they are asked for."""
        dataset: xarray.Dataset = self._open()["dataset"]
        return dataset

    def read(self, selections: Sequence[Selection]) -> list[NDArray[Any]]:
        """The decoded values of several selections, each in the order of its variable's dimensions."""
        opened = self._open()
        if not self.is_zarr:
            return [self.dataset[name].variable[index].values for name, index in selections]
        values: dict[int, NDArray[Any]] = {}
        tasks: list[Task] = []
        for place, (name, index) in enumerate(selections):
            if (local := opened["local"].get(name)) is not None:
                values[place], own = local.plan(index)
                tasks += own
        others = [place for place in range(len(selections)) if place not in values]
        run_all(tasks, torch.get_num_threads())  # one in a worker of a DataLoader
        reads = [(opened["arrays"][name], index) for name, index in (selections[i] for i in others)]
        values |= zip(others, read_all(reads), strict=True)
        packed = opened["packed"]
        return [
            _decode(name, values[place], packed[name]) if name in packed else values[place]
            for place, (name, _) in enumerate(selections)
        ]

    def dims(self, name: str) -> tuple[str, ...]:
        """The dimensions of a variable, in the order of :meth:`read`."""
        return tuple(map(str, self.dataset.variables[name].dims))

    def chunk(self, name: str, dim: str) -> int:
        """Length of the stored chunks of a variable along a dimension; 1 if it is stored in one piece."""
        variable = self.dataset.variables[name]
        chunks = variable.encoding.get("chunks") or variable.encoding.get("chunksizes")
        return int(chunks[variable.dims.index(dim)]) if chunks else 1

    def chunks(self, name: str) -> dict[str, int]:
        """Length of the stored chunks of a variable along each dimension; its size if there are none."""
        variable = self.dataset.variables[name]
        chunks = variable.encoding.get("chunks") or variable.encoding.get("chunksizes") or variable.shape
        return dict(zip(map(str, variable.dims), map(int, chunks), strict=True))

    def fingerprint(self, names: Sequence[str]) -> str:
        """A digest that changes when the variables or their coordinates do.

        It covers names, dimensions, types, attributes and the values of the coordinates; of a store
        on a local disk also name, size and time of modification of every file that holds the variables.
        """
        digest = hashlib.sha256(self.described(names).encode())
        if self.local:
            root = Path(self.location)
            files = [f for name in names for f in (root / name).rglob("*")] if self.is_zarr else [root]
            for file in sorted(files):
                status = file.stat()
                if file.is_file():
                    digest.update(
                        f"{file.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode()
                    )
        return digest.hexdigest()

    def described(self, names: Sequence[str]) -> str:
        """A digest of names, dimensions, types and attributes of variables, and of their coordinates."""
        digest = hashlib.sha256()
        coords = sorted({str(c) for name in names for c in self.dataset[name].coords})
        for name in (*names, *coords):
            variable = self.dataset[name]
            digest.update(f"{name}{variable.dims}{variable.shape}{variable.dtype}{variable.attrs}".encode())
            if name in coords:
                digest.update(repr(variable.values.tolist()).encode())
        return digest.hexdigest()

    def _open(self) -> dict[str, Any]:
        if self._process != os.getpid():  # what was opened before a fork belongs to the parent
            self._opened = self._open_zarr() if self.is_zarr else self._open_netcdf()
            self._process = os.getpid()
        return self._opened

    def _open_zarr(self) -> dict[str, Any]:
        _extras.require("a zarr store", "zarr")
        import zarr

        place: Any = zarr.storage.ZipStore(self.location, mode="r") if self.is_zip else self.location
        inner = self.group or None
        group = zarr.open_group(place, mode="r", path=inner)
        options: dict[str, Any] = {
            "engine": "zarr",
            "chunks": None,
            "decode_timedelta": False,
            "group": inner,
        }
        options["consolidated"] = is_consolidated(group)
        dataset = xarray.open_dataset(place, **options)
        stored = xarray.open_dataset(place, **options, decode_cf=False)
        arrays = dict(group.arrays())
        if not dataset.data_vars and (
            groups := [f"/{name}" for name, g in group.groups() if any(g.arrays())]
        ):
            raise ValueError(_in_groups(self.location, groups))
        return {
            "dataset": dataset,
            "arrays": arrays,
            "local": {name: LocalArray.of(array) for name, array in arrays.items()},
            "packed": {n: v.variable for n, v in stored.data_vars.items() if _is_packed(v, dataset[n])},
        }

    def _open_netcdf(self) -> dict[str, Any]:
        options: dict[str, Any] = {"chunks": None, "decode_timedelta": False}
        dataset = xarray.open_dataset(self.location, group=self.group or None, **options)
        if not dataset.data_vars and not self.group:
            groups = xarray.open_groups(self.location, **options)
            if inner := [name for name, group in groups.items() if group.data_vars]:
                raise ValueError(_in_groups(self.location, inner))
        return {"dataset": dataset}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}, "_process": -1}

    def __repr__(self) -> str:
        return f"{'zarr store' if self.is_zarr else 'netCDF file'} {self.location!s}"


class Given(Store):
    """A data set that is at hand, in memory or lazy, in place of a store. It pickles without its data."""

    def __init__(self, dataset: xarray.Dataset) -> None:
        self._dataset: xarray.Dataset | None = dataset
        self.location, self.local, self.is_zarr = "", False, False

    @property
    def dataset(self) -> xarray.Dataset:
        if self._dataset is None:
            raise RuntimeError("the data set stayed in the process that it was given to")
        return self._dataset

    def read(self, selections: Sequence[Selection]) -> list[NDArray[Any]]:
        return [self.dataset[name].variable[index].values for name, index in selections]

    def chunk(self, name: str, dim: str) -> int:
        variable = self.dataset.variables[name]
        return int(variable.chunksizes[dim][0]) if variable.chunks else super().chunk(name, dim)

    def chunks(self, name: str) -> dict[str, int]:
        found = self.dataset.variables[name].chunksizes
        return {str(dim): int(sizes[0]) for dim, sizes in found.items()} if found else super().chunks(name)

    def fingerprint(self, names: Sequence[str]) -> str:
        """What is known of the data set; it does not tell whether its values changed."""
        return DESCRIBED + self.described(names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None}

    def __repr__(self) -> str:
        return "data set"


def _in_groups(location: str, groups: Sequence[str]) -> str:
    return (
        f"{location!r} keeps its variables in the groups {list(groups)}: name the one to read behind the "
        f"file, {location + groups[0]!r}"
    )


def _split_group(location: str) -> tuple[str, str]:
    """A netCDF or zip file, and the group in it, of ``file.nc/group``."""
    for parent in Path(location).parents:
        if parent.is_file():
            return str(parent), str(Path(location).relative_to(parent))
    raise FileNotFoundError(f"there is no store at {location!r}")


def _is_packed(stored: Any, decoded: Any) -> bool:
    """Whether the stored numbers are others than the decoded ones."""
    fills = [stored.attrs.get(key) for key in ("_FillValue", "missing_value")]
    return (
        stored.dtype != decoded.dtype
        or any(key in stored.attrs for key in ("scale_factor", "add_offset", "_Unsigned"))
        or any(fill is not None and not np.isnan(fill).all() for fill in fills)
    )


def _decode(name: str, values: NDArray[Any], stored: xarray.Variable) -> NDArray[Any]:
    raw = xarray.Variable(stored.dims, values, stored.attrs)
    decoded: NDArray[Any] = xarray.conventions.decode_cf_variable(name, raw).values
    return decoded
