"""``geoattn train TASK``: settings from a file and flags, a model in a folder."""

from __future__ import annotations

import argparse
from typing import Any

from geoattn.commands import experiments


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="the task and its options")


def run(options: argparse.Namespace) -> int:
    return experiments.train(options.rest)


def actions(options: argparse.Namespace) -> list[Any]:
    """The options of the task that is asked for."""
    return experiments.actions("train", options.rest)
