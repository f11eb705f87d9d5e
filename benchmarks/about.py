"""What stands beside every measurement: when, by which command, on what, with which versions."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import geoattn as ga

#: packages whose versions every result has, beside Python and geoattn
ALWAYS = ("torch", "numpy", "numba")


def about(command: str, *packages: str) -> dict[str, Any]:
    """The head of a file of results.

    Parameters
    ----------
    command
        What is typed to measure it again.
    packages
        Those that were measured or measure, beside :data:`ALWAYS`.
    """
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": processor(),
        "versions": {"python": platform.python_version(), "geoattn": ga.__version__}
        | {name: _version(name) for name in dict.fromkeys((*ALWAYS, *packages))},
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def processor() -> str:
    """What the machine calls itself, and how many cores it lends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        name = f"{facts['model name']}, family {facts['cpu family']} model {facts['model']}"
    except (OSError, KeyError):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
