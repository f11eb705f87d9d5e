"""``geoattn evaluate TASK``: scores and pictures of a run."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import experiments


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="the task and the folder of its run")


def run(options: argparse.Namespace) -> int:
    return experiments.evaluate(options.rest)


def actions(options: argparse.Namespace) -> list[Any]:
    """The options of the task that is asked for."""
    return experiments.actions("evaluate", options.rest)
