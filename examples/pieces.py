"""Statistics, scores and regridding in pieces: on processes, on a cluster, and in one process beside them.

    python examples/pieces.py

A job has pieces; ``job.map`` of each gives a part, wherever it runs; ``job.combine`` makes one of two parts,
and ``job.finish`` the result. Any system that maps and combines can do it in a few lines, as
:func:`on_processes` does.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import geoattn as ga
from geoattn.xarray import partial


def on_processes(job: Any, workers: int) -> Any:
    """Map, combine, finish: all that a system has to do."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        parts = pool.map(job.map, job.pieces)
        return job.finish(functools.reduce(job.combine, parts))


def on_cluster(job: Any, workers: int) -> Any:
    """The same by a client of dask.distributed, of this machine or of any other."""
    import distributed

    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        return partial.run(job, client)


def write_store(path: Path, steps: int = 48) -> None:
    """Two levels of a wave that travels, a chunk for each four steps."""
    lat, lon = np.linspace(90, -90, 37), np.arange(0, 360, 5.0)
    phase = np.arange(steps)[:, None, None, None] / 5 + np.array([0.0, 1.0])[:, None, None]
    wave = np.cos(np.radians(lat))[:, None] * np.cos(np.radians(3 * lon) - phase)
    times = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(6, "h")
    dims = ("time", "level", "latitude", "longitude")
    coords = {"time": times, "level": [500, 850], "latitude": lat, "longitude": lon}
    ds = xr.Dataset({"t": (dims, np.float32(250 + 8 * wave), {"units": "K"})}, coords)
    ds.to_zarr(path, encoding={"t": {"chunks": (4, 2, 37, 72)}}, consolidated=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Statistics, a score and regridding, in pieces.")
    parser.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.zarr"
        write_store(path)
        ds = xr.open_zarr(path, consolidated=False)  # of dask arrays, a chunk each
        schema = ga.xarray.Schema.of(ds)

        job = partial.statistics(path, schema, block_bytes=2**18)
        usual = ga.xarray.statistics(path, schema)
        for how in (on_processes, on_cluster):
            assert how(job, options.workers) == usual
        print(f"{len(job.pieces)} pieces of statistics add up to those of one process, to the bit:")
        print(f"  mean {usual.states.mean.round(2)}, deviation {usual.states.std.round(2)} K")

        # dask arrays go where dask goes: here on threads, on the current client if there is one
        assert np.array_equal(ga.xarray.statistics(ds, schema).states.mean, usual.states.mean)

        later = ds.isel(time=slice(8, None)).assign_coords(time=ds.time[:-8].values)  # a poor forecast
        score = partial.score("rmse", later.chunk(time=8), ds)
        (found,) = on_cluster(score, options.workers).values()
        print(f"RMSE of the state two days on, by a cluster: {found.t.values.round(2)} K")
        np.testing.assert_allclose(found.t, ga.xarray.metrics.rmse(later, ds).t)

        moved = partial.regrid(ds, ga.grids.healpix(8), Path(folder) / "healpix.zarr", block_bytes=2**18)
        out = xr.open_zarr(on_cluster(moved, options.workers), consolidated=False)
        print(f"{len(moved.pieces)} pieces regridded: {out.geoattn.grid}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
