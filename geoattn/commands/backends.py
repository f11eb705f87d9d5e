"""``geoattn backends``: what can run here."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(options: argparse.Namespace) -> int:
    from geoattn import backends

    print(backends.status())
    return 0
