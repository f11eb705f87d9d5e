"""Regridding from store to store, block by block of time: memory stays flat, and blocks need no order."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray

from geoattn import _extras
from geoattn.grids import recognise
from geoattn.xarray.regrid import OPTIONS, regrid
from geoattn.xarray.schema.dimensions import sort_dimensions
from geoattn.xarray.schema.schema import on_grid
from geoattn.xarray.stores.files import refuse_existing
from geoattn.xarray.stores.jobs import Job, Pieces, run
from geoattn.xarray.stores.zarr_private import consolidate, create_array

#: about how many bytes of the larger of source and target are in a block
BLOCK_BYTES = 64 * 2**20


class RegridJob(Job[int, Path]):
    """Regridding in pieces: blocks along the first dimension of samples, each written to its place.

    The store is allocated when the job is made, beside its place, and takes its name when the job finishes.

    Parameters
    ----------
    ds
        Dataset, lazy or in memory.
    target, **options
        As for :func:`geoattn.xarray.regrid`.
    output
        The zarr store to write.
    block_bytes
        About how much is read, or written, at once.
    """

    def __init__(
        self,
        ds: xarray.Dataset,
        target: Any,
        output: str | os.PathLike[str],
        *,
        block_bytes: int = BLOCK_BYTES,
        **options: Any,
    ) -> None:
        self.output = Path(output)
        refuse_existing(output)
        self.store = self.output.with_name(self.output.name + ".unfinished")
        if self.store.exists():
            raise FileExistsError(f"{str(self.store)!r} is there, of a run that was stopped: delete it")
        self.options = {"target": target, **options}
        if options.get("weights") is not None:  # workers may be in other folders
            self.options["weights"] = os.path.abspath(options["weights"])
        report = recognise(ds, **{name: value for name, value in options.items() if name not in OPTIONS})
        names = on_grid(ds, report.dims)
        samples = [d for n in names for d in sort_dimensions(ds, n, report.dims, (), ())[0]]
        self.dim = samples[0] if samples else ""
        count = int(ds.sizes[self.dim]) if self.dim else 1
        self.changing = [name for name in names if self.dim in ds[name].dims]
        first = regrid(self._steps(ds, 0, min(1, count)), **self.options)
        size = max(ds[self.changing].nbytes // max(count, 1), first[self.changing].nbytes, 1)
        length = min(max(1, block_bytes // size), count) if self.dim else 1
        self.blocks = [(start, min(start + length, count)) for start in range(0, count, length)]
        self._ds: xarray.Dataset | None = ds
        self._allocate(first, ds, count, length)

    @property
    def pieces(self) -> Sequence[Any]:
        return Pieces(len(self.blocks), self._piece)

    def _piece(self, place: int) -> Any:
        if self._ds is None:
            raise RuntimeError("the data set stayed in the process that it was given to")
        start, stop = self.blocks[place]
        return (start, stop, self._steps(self._ds, start, stop))

    def map(self, piece: Any) -> int:
        start, stop, ds = piece
        if not self.changing:
            return 1
        drop = [name for name in ds.data_vars if name in self.static]
        moved = regrid(ds.drop_vars(drop).compute(), **self.options)
        _extras.require("a zarr store", "zarr")
        import zarr

        group: Any = zarr.open_group(self.store, mode="r+")
        for name in self.changing:
            array = moved[name]
            index = tuple(slice(start, stop) if dim == self.dim else slice(None) for dim in array.dims)
            group[name][index] = array.values
        return int(stop - start)

    def combine(self, one: int, other: int) -> int:
        return one + other

    def finish(self, part: int) -> Path:
        consolidate(self.store)
        os.replace(self.store, self.output)
        return self.output

    def _steps(self, ds: xarray.Dataset, start: int, stop: int) -> xarray.Dataset:
        return ds.isel({self.dim: slice(start, stop)}) if self.dim else ds

    def _allocate(self, first: xarray.Dataset, ds: xarray.Dataset, count: int, length: int) -> None:
        """Coordinates and what does not change, and arrays for the rest, in chunks of whole blocks."""
        _extras.require("a zarr store", "zarr")
        import zarr

        along = [name for name, v in first.variables.items() if self.dim in v.dims]
        rest = first.drop_vars(along)
        own = {n: v for n, v in ds.variables.items() if self.dim in v.dims and n not in self.changing}
        rest = rest.assign_coords({n: own[n] for n in along if n in own})
        #: what is written once
        self.static = [name for name in rest.data_vars if name in ds.data_vars]
        for variable in rest.variables.values():
            variable.encoding = {
                k: v for k, v in variable.encoding.items() if k in ("units", "calendar", "dtype")
            }
        rest.to_zarr(self.store, mode="w-", consolidated=False)
        group = zarr.open_group(self.store, mode="r+")
        for name in self.changing:
            array = first[name]
            shape = tuple(count if d == self.dim else n for d, n in array.sizes.items())
            storage: dict[str, Any] = {"shape": shape, "dtype": array.dtype}
            storage["chunks"] = tuple(length if d == self.dim else n for d, n in array.sizes.items())
            if array.dtype.kind == "f":
                storage["fill_value"] = array.dtype.type(np.nan)
            create_array(group, name, tuple(map(str, array.dims)), dict(array.attrs), **storage)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ds": None}


def regrid_store(
    ds: xarray.Dataset,
    target: Any,
    output: str | os.PathLike[str],
    *,
    client: Any = None,
    progress: Callable[[int, int], object] | None = None,
    **options: Any,
) -> Path:
    """A data set of any size on another grid, into a new zarr store, which is whole or not there.

    Parameters
    ----------
    ds, target, output, **options
        As for :class:`RegridJob`.
    client
        A ``dask.distributed.Client`` whose workers regrid the blocks.
    progress
        Called with the number of blocks that are done and that of all, time after time.
    """
    job = RegridJob(ds, target, output, **options)
    done = 0

    def count(new: int) -> None:
        nonlocal done
        done += new
        if progress is not None:
            progress(done, len(job.pieces))

    try:
        return run(job, client, count)
    except BaseException:
        shutil.rmtree(job.store, ignore_errors=True)
        raise
