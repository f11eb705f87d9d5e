"""Statistics of ever more chunked data: does memory stay flat?

    python benchmarks/statistics_memory.py            # to 20 GB
    python benchmarks/statistics_memory.py --largest 2.5

The data are made by dask, chunk by chunk as they are asked for, so that no disk has to hold them: one
variable in float32 on 181 × 360 points, a chunk for each 32 steps. Each size is a process of its own, whose
peak memory is that of the system's account of it, less what it held once all was imported and a first small
data set was summed. What is found is compared with what the made-up data have by construction.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from about import about

RESULTS = Path(__file__).parent / "results"
ROWS, COLUMNS, CHUNK = 181, 360, 32
STEP_BYTES = ROWS * COLUMNS * 4
MEAN, SPREAD = 280.0, 10.0


def made(steps: int):
    """A data set of so many steps: a pattern that is known, drifting east, made when it is computed."""
    import dask.array
    import xarray

    lat, lon = np.linspace(90, -90, ROWS), np.arange(COLUMNS) * (360 / COLUMNS)

    def chunk(block_info=None):
        (first, last), *_ = block_info[None]["array-location"]
        wave = np.sqrt(2) * np.cos(np.radians(lon) - np.arange(first, last)[:, None] / 7)
        field = np.empty((last - first, ROWS, COLUMNS), np.float32)
        field[:] = (MEAN + SPREAD * wave)[:, None, :]
        return field

    sizes = tuple(min(CHUNK, steps - start) for start in range(0, steps, CHUNK))
    array = dask.array.map_blocks(chunk, chunks=(sizes, (ROWS,), (COLUMNS,)), dtype=np.float32)
    times = np.datetime64("1979-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "h")
    dims = ("time", "latitude", "longitude")
    return xarray.Dataset({"t": (dims, array)}, {"time": times, "latitude": lat, "longitude": lon})


def peak(watched: list[float], stop: threading.Event) -> None:
    """Keep the largest resident memory of this process, in MB, twenty times a second."""
    while not stop.wait(0.05):
        watched[0] = max(watched[0], resident())


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def measure(gigabytes: float) -> dict[str, float]:
    """Statistics of one size, in this process."""
    import geoattn as ga

    first = made(2 * CHUNK)
    schema = ga.xarray.Schema.of(first)
    ga.xarray.statistics(first, schema)  # imports and compiled code are no memory of the data
    steps = round(gigabytes * 1e9 / STEP_BYTES)
    ds = made(steps)
    before = resident()
    watched, stop = [before], threading.Event()
    watcher = threading.Thread(target=peak, args=(watched, stop))
    watcher.start()
    begin = time.perf_counter()
    found = ga.xarray.statistics(ds, schema)
    seconds = time.perf_counter() - begin
    stop.set()
    watcher.join()
    assert abs(found.states.mean[0] - MEAN) < 1e-3
    assert abs(found.states.std[0] - SPREAD) < 1e-3
    assert found.states.count[0] == steps * ROWS * COLUMNS
    return {
        "gigabytes": gigabytes,
        "steps": steps,
        "seconds": round(seconds, 1),
        "megabytes_before": round(before, 1),
        "megabytes_at_peak": round(watched[0], 1),
        "megabytes_for_the_data": round(watched[0] - before, 1),
    }


def draw(rows: list[dict[str, float]]) -> None:
    """Peak memory against size, from nothing on."""
    from geoattn.plot import curves, save

    sizes, held = ([row[name] for row in rows] for name in ("gigabytes", "megabytes_for_the_data"))
    figure = curves(None, "data (GB)", {"peak memory (MB)": {"statistics": (sizes, held)}})
    figure.axes[0].set_ylim(bottom=0)
    save(figure, RESULTS / "statistics_memory.png")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Peak memory of statistics against the size of the data.")
    parser.add_argument("--largest", type=float, default=20.0, help="gigabytes (%(default)s)")
    parser.add_argument("--only", type=float, help="measure one size here and print it in JSON")
    options = parser.parse_args(arguments)
    if options.only:
        print(json.dumps(measure(options.only)))
        return 0
    sizes = [options.largest / 2**i for i in range(4, -1, -1)]
    rows = []
    for size in sizes:
        command = [sys.executable, __file__, "--only", str(size)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)

    from geoattn._files import write_json

    result = about("python benchmarks/statistics_memory.py", "dask", "xarray") | {
        "data": f"made by dask as it is asked for: float32, {ROWS} × {COLUMNS}, {CHUNK} steps a chunk",
        "rows": rows,
    }
    write_json(result, RESULTS / "statistics_memory.json")
    draw(rows)
    print(f"written to {RESULTS}/statistics_memory.json and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
