"""How many furnished rooms are rendered in a minute.

    python benchmarks/panoramas.py [--threads 2] [--rooms 200]

Prints a table and writes ``benchmarks/results/panoramas.json``: panoramas per minute of wall time, rooms
made at random included, and processor time of each. Compilation comes first and is not counted. A few
rooms are drawn beside it in ``panoramas.png``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from about import about

import geoattn as ga
from geoattn._files import write_text
from geoattn.plot import Column, table
from geoattn.tasks.panoramas import LEGEND, random_room, render_rooms

RESULTS = Path(__file__).parent / "results" / "panoramas.json"
SHAPES = ((32, 64), (64, 128), (128, 256), (256, 512))


def measure(shape: tuple[int, int], count: int, threads: int) -> dict[str, Any]:
    grid = ga.grids.equiangular(*shape, poles=False)
    render_rooms(grid, 2, threads=threads)
    wall, processor = time.perf_counter(), time.process_time()
    render_rooms(grid, count, threads=threads)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "shape": shape,
        "rooms": count,
        "per_minute": round(60 * count / wall),
        "cpu_ms_each": round(1e3 * processor / count, 2),
    }


def draw(path: Path) -> None:
    """Three rooms: what is seen, how far it is, and what it is."""
    grid = ga.grids.equiangular(128, 256, poles=False)
    seen = render_rooms(grid, 3, "test", first=4, supersampling=2)
    columns = [
        Column("rendered", seen.rgb),
        Column("depth", seen.depth, {"vmin": 0.0, "vmax": seen.depth.max()}, "depth along the ray (m)"),
        Column("class", LEGEND.colours_of(seen.label)),
    ]
    table(path, grid, columns, legend=LEGEND)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rooms", type=int, default=200)
    options = parser.parse_args()
    rows = [measure(shape, options.rooms, options.threads) for shape in SHAPES]
    began = time.process_time()
    for index in range(options.rooms):
        random_room("train", index)
    room = 1e3 * (time.process_time() - began) / options.rooms
    print(f"{options.threads} threads; making a room takes {room:.2f} ms of processor time")
    print(f"{'image':>10}{'per minute':>14}{'cpu ms each':>14}")
    for row in rows:
        image = "{}×{}".format(*row["shape"])
        print(f"{image:>10}{row['per_minute']:14,}{row['cpu_ms_each']:14.2f}")
    command = f"python benchmarks/panoramas.py --threads {options.threads} --rooms {options.rooms}"
    content = about(command) | {
        "threads": options.threads,
        "room_cpu_ms": round(room, 2),
        "rows": rows,
    }
    draw(RESULTS.with_suffix(".png"))
    write_text(json.dumps(content, indent=1) + "\n", RESULTS)


if __name__ == "__main__":
    main()
