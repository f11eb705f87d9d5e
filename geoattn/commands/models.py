"""``geoattn models``: what sizes there are."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    from geoattn.models.sizes import table

    print(table())
    return 0
