"""The command line: ``geoattn demo``, ``geoattn grids``."""

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

    commands.add_parser("grids", help="list the catalogue of named grids")
    commands.add_parser("models", help="list the sizes of the models with the numbers of their parameters")
    commands.add_parser("backends", help="say which backends can run here, and why others cannot")

    options = parser.parse_args(arguments)
    if options.command == "demo":
        from geoattn.demo import run_demo

        return run_demo(
            options.output, seed=options.seed, steps=options.steps, quick=options.quick, fresh=options.fresh
        )
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


if __name__ == "__main__":
    sys.exit(main())
