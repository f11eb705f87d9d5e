"""``geoattn demo``: a whole experiment in minutes."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, default=Path("runs/demo"), help="folder to write (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and order (%(default)s)")
    parser.add_argument("--steps", type=int, help="optimiser steps for each model (as the preset has)")
    parser.add_argument(
        "--quick", action="store_true", help="a toy size, in seconds: shows only that it runs"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="delete the output folder's earlier results first"
    )


def run(options: argparse.Namespace) -> int:
    from geoattn.demo import run_demo

    return run_demo(
        options.output, seed=options.seed, steps=options.steps, quick=options.quick, fresh=options.fresh
    )
