"""How fast samples come off a store: geoattn against raw zarr reads, xarray and xbatcher.

    python benchmarks/pipeline.py                      # a minute; the store is made on the first run
    python benchmarks/pipeline.py --store DIRECTORY    # where the store is, or is to be

One sample is one time step of 69 channels (4 variables, and 5 on 13 levels) on 121×240 points in
float32, 8 MB. The store is zarr with its default compression and one step per chunk, its values rounded
to the 16 bits that GRIB files carry. Samples are drawn at random; the readers take turns on every one of
them, in an order that changes, and their values are compared before they are timed. geoattn delivers one
checked tensor, the others the arrays of the variables, unjoined. Memory is that of the process over an
epoch of random samples. Files are read from the page cache. Writes ``benchmarks/results/pipeline.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import xbatcher
import zarr
from about import about
from torch.utils.data import DataLoader

import geoattn as ga
from geoattn._files import write_text

RESULTS = Path(__file__).parent / "results" / "pipeline.json"
SURFACE = ["msl", "t2m", "u10", "v10"]
LEVELS = ["z", "t", "u", "v", "q"]
PACKAGES = ("numpy", "torch", "xarray", "zarr", "dask", "xbatcher")


def make_store(path: Path, steps: int) -> None:
    """Noise around slow waves, rounded to 16 bits."""
    random = np.random.default_rng(0)
    grid = ga.grids.equiangular(121, 240)
    wave = np.sin(np.radians(3 * grid.lon)) * np.cos(np.radians(grid.lat))

    def field(*levels: int) -> np.ndarray:
        noise = random.standard_normal((steps, *levels, *grid.shape), dtype=np.float32)
        return (np.round((wave + 0.3 * noise) * 2**13) / 2**13).astype(np.float32)

    dims = ("latitude", "longitude")
    variables: dict[str, Any] = {name: (("time", *dims), field()) for name in SURFACE}
    variables |= {name: (("time", "level", *dims), field(13)) for name in LEVELS}
    hours = np.arange(steps) * np.timedelta64(6, "h")
    coords = {
        "time": np.datetime64("2020-01-01", "ns") + hours,
        "level": [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000],
        "latitude": grid.lat_axis,
        "longitude": grid.lon_axis,
    }
    ds = xarray.Dataset(variables, coords)
    encoding = {name: {"chunks": (1, *ds[name].shape[1:])} for name in ds.data_vars}
    ds.to_zarr(path, mode="w-", encoding=encoding, consolidated=False)


def readers(path: Path) -> dict[str, Callable[[int], Any]]:
    """Name → the function that reads a sample."""
    group = zarr.open_group(path, mode="r")
    arrays = [group[name] for name in SURFACE + LEVELS]
    lazy = xarray.open_zarr(path, chunks=None, consolidated=False)
    dasked = xarray.open_zarr(path, consolidated=False)
    batches = xbatcher.BatchGenerator(
        dasked, {"time": 1, **{d: n for d, n in dasked.sizes.items() if d != "time"}}
    )
    schema = ga.xarray.Schema.of(lazy, SURFACE + LEVELS)
    windows = ga.xarray.Windows(path, schema, target_steps=0)
    return {
        "geoattn": lambda i: windows[i]["input"],
        "zarr": lambda i: [array[i] for array in arrays],
        "xarray": lambda i: [lazy[name][i].values for name in SURFACE + LEVELS],
        "xarray+dask": lambda i: dasked.isel(time=i).load(),
        "xbatcher": lambda i: batches[i].load(),
    }


def joined(sample: Any) -> np.ndarray:
    """A sample of any reader as ``[69, 121, 240]``."""
    if isinstance(sample, xarray.Dataset):
        sample = [sample[name].values for name in SURFACE + LEVELS]
    if isinstance(sample, list):
        sample = np.concatenate([np.reshape(part, (-1, 121, 240)) for part in sample])
    return np.asarray(sample).reshape(69, 121, 240)


def time_samples(path: Path, samples: int) -> dict[str, Any]:
    """Milliseconds for each reader: median, quartiles and the best."""
    functions = readers(path)
    steps = len(xarray.open_zarr(path, consolidated=False).time)
    random = np.random.default_rng(1)
    for i in random.integers(0, steps, 3).tolist():
        expected = joined(functions["zarr"](i))
        for name, read in functions.items():
            assert np.array_equal(joined(read(i)), expected), name
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in random.integers(0, steps, samples).tolist():
        for place in random.permutation(len(functions)):
            name = list(functions)[place]
            start = time.perf_counter()
            functions[name](i)
            times[name].append(1e3 * (time.perf_counter() - start))
    table = {}
    for name, measured in times.items():
        low, middle, high = statistics.quantiles(measured, n=4)
        table[name] = {"median_ms": middle, "quartiles_ms": [low, high], "best_ms": min(measured)}
    return table


def resident() -> float:
    """Megabytes resident now, or at most so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def memory_of_an_epoch(path: Path) -> list[float]:
    """Megabytes resident at ten points of an epoch of random samples, after some to warm up."""
    schema = ga.xarray.Schema.of(xarray.open_zarr(path, chunks=None, consolidated=False), SURFACE + LEVELS)
    windows = ga.xarray.Windows(path, schema, target_steps=0)
    order = np.random.default_rng(2).permutation(len(windows)).tolist()
    for i in order[:20]:
        windows[i]
    found = []
    for part in np.array_split(order, 10):
        for i in part.tolist():
            windows[i]
        found.append(resident())
    return found


def time_workers(path: Path) -> dict[str, float]:
    """Milliseconds per sample of an epoch, by two workers forked after the parent has read, and by none."""
    schema = ga.xarray.Schema.of(xarray.open_zarr(path, consolidated=False), SURFACE + LEVELS)
    xarray.open_zarr(path, consolidated=False).t2m[:4].mean().compute()  # dask's threads have run
    windows = ga.xarray.Windows(path, schema, target_steps=0)
    windows[0]
    found = {}
    for name, options in (
        ("none", {}),
        (
            "two, forked",
            {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 60, "persistent_workers": True},
        ),
    ):
        loader = DataLoader(windows, batch_size=None, shuffle=True, **options)
        assert sum(1 for _ in loader) == len(windows)  # starts the workers
        start = time.perf_counter()
        count = sum(1 for _ in loader)
        found[name] = 1e3 * (time.perf_counter() - start) / count
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(tempfile.gettempdir()) / "geoattn-pipeline.zarr")
    parser.add_argument("--steps", type=int, default=120, help="time steps of the store, 8 MB each")
    parser.add_argument("--samples", type=int, default=100, help="random samples to time")
    parser.add_argument("--prepare", action="store_true", help="make the store and stop")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="zarr")
    if not options.store.exists():
        make_store(options.store, options.steps)
    if options.prepare:
        return
    size = sum(file.stat().st_size for file in options.store.rglob("*") if file.is_file())
    table = time_samples(options.store, options.samples)
    print(f"{'reader':14}{'median ms':>10}{'quartiles':>16}{'over zarr':>11}")
    for name, row in sorted(table.items(), key=lambda item: item[1]["median_ms"]):
        low, high = row["quartiles_ms"]
        row["over_zarr"] = row["median_ms"] / table["zarr"]["median_ms"]
        print(f"{name:14}{row['median_ms']:10.1f}{f'{low:.1f}–{high:.1f}':>16}{row['over_zarr']:11.2f}")
    memory = memory_of_an_epoch(options.store)
    print("resident MB over an epoch: " + " ".join(f"{m:.0f}" for m in memory))
    workers = time_workers(options.store)
    print("ms per sample by workers: " + ", ".join(f"{name}: {t:.1f}" for name, t in workers.items()))
    report = about("python benchmarks/pipeline.py", *PACKAGES) | {
        "samples": options.samples,
        "store_bytes_per_sample": size / options.steps,
        "readers": table,
        "resident_megabytes_over_an_epoch": memory,
        "workers_ms_per_sample": workers,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS)
    print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
