"""The command line: ``geoattn demo``, ``geoattn forecast``, ``geoattn grids``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="geoattn", description="Attention for geometric domains: planes and spheres."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="simulate shallow water, train a transformer, forecast, draw")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder to write (%(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="seed of data, weights and order (%(default)s)")
    demo.add_argument("--steps", type=int, help="optimiser steps for each model")
    demo.add_argument("--quick", action="store_true", help="a toy size, in seconds: shows only that it runs")
    demo.add_argument("--fresh", action="store_true", help="delete the output folder's earlier results first")

    forecast = commands.add_parser(
        "forecast",
        help="forecast from a zarr store into a new one",
        description="Forecast from the states of a store. A run that was stopped continues by --resume.",
    )
    forecast.add_argument("--checkpoint", required=True, help="file that ga.xarray.Forecaster.save wrote")
    forecast.add_argument("--input", required=True, help="store with the initial states, on its grid")
    forecast.add_argument("--output", required=True, help="zarr store to write; it must not exist")
    forecast.add_argument("--steps", type=int, required=True, help="number of steps")
    forecast.add_argument("--times", nargs="+", metavar="TIME", help="initial times (the input's last one)")
    forecast.add_argument("--members", type=int, default=1, help="members of the ensemble (%(default)s)")
    forecast.add_argument(
        "--perturbation",
        type=float,
        default=0.1,
        help="noise on the inputs of all members but the first, in typical changes over a step (%(default)s)",
    )
    forecast.add_argument("--seed", type=int, default=0, help="seed of the noise (%(default)s)")
    forecast.add_argument("--batch-size", type=int, default=4, help="samples forecast at once (%(default)s)")
    forecast.add_argument(
        "--names",
        choices=("weatherbench2", "input"),
        default="weatherbench2",
        help="what levels, latitude and longitude are called (%(default)s)",
    )
    forecast.add_argument("--device", help="cpu or cuda (a GPU if there is one)")
    forecast.add_argument("--resume", action="store_true", help="continue an unfinished forecast")

    commands.add_parser("grids", help="list the catalogue of named grids")
    commands.add_parser("models", help="list the sizes of the models with the numbers of their parameters")
    commands.add_parser("backends", help="say which backends can run here, and why others cannot")

    for action, what in (("train", "train a model for TASK"), ("evaluate", "score and draw a trained model")):
        commands.add_parser(
            action, help=f"{what}: shallow-water, segmentation or depth", add_help=False, prefix_chars="\0"
        ).add_argument("rest", nargs=argparse.REMAINDER)

    options = parser.parse_args(arguments)
    if options.command in ("train", "evaluate"):
        from geoattn.tasks.command import run

        return run(options.command, options.rest)
    if options.command == "demo":
        from geoattn.demo import run_demo

        return run_demo(
            options.output, seed=options.seed, steps=options.steps, quick=options.quick, fresh=options.fresh
        )
    if options.command == "forecast":
        return _forecast(options)
    if options.command == "grids":
        from geoattn import grids

        print(grids.catalogue())
    elif options.command == "models":
        from geoattn.models.sizes import table

        print(table())
    else:
        from geoattn import backends

        print(backends.status())
    return 0


def _forecast(options: argparse.Namespace) -> int:
    from geoattn.xarray import forecast

    arguments = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        forecast(**arguments)
    except (ValueError, OSError, FloatingPointError) as reason:
        print(f"geoattn forecast: {reason}", file=sys.stderr)
        return 1
    print(f"The forecast is in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
