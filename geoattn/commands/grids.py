"""``geoattn grids``: the catalogue."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    from geoattn.grids import catalogue

    print(catalogue())
    return 0
