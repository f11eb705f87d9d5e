"""The version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed() -> str:
    """The version that was installed; "0+unknown" for sources that are used without being installed."""
    try:
        return version("geoattn")
    except PackageNotFoundError:
        return "0+unknown"
