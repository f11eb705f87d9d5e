"""``geoattn forecast``: from a store into a new one."""

from __future__ import annotations

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Forecast from the states of a store. A run that was stopped continues by --resume."
    add = parser.add_argument
    add("--checkpoint", required=True, help="file that ga.xarray.Forecaster.save or geoattn train wrote")
    add("--input", required=True, help="store with the initial states, on its grid")
    add("--output", required=True, help="zarr store to write; it must not exist")
    add("--steps", type=int, required=True, help="number of steps")
    add("--times", nargs="+", metavar="TIME", help="initial times, 2020-01-31T12 (the input's last one)")
    add("--members", type=int, default=1, help="members of the ensemble (%(default)s)")
    add(
        "--perturbation",
        type=float,
        default=0.1,
        help="noise on the inputs of all members but the first, in typical changes over a step (%(default)s)",
    )
    add("--seed", type=int, default=0, help="seed of the noise (%(default)s)")
    add("--batch-size", type=int, default=4, help="samples forecast at once (%(default)s)")
    add(
        "--names",
        choices=("weatherbench2", "input"),
        default="weatherbench2",
        help="what levels, latitude and longitude are called (%(default)s)",
    )
    add("--device", help="cpu or cuda (a GPU if there is one)")
    add("--resume", action="store_true", help="continue an unfinished forecast")


def run(options: argparse.Namespace) -> int:
    from geoattn.xarray import forecast

    chosen = {name: value for name, value in vars(options).items() if name != "command"}
    forecast(**chosen, progress=sys.stderr.isatty())
    print(f"The forecast is in {options.output}")
    return 0
