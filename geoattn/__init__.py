"""Attention for geometric domains: planes and spheres, windows and discs, one operator.

The names below are the public API. What needs torch is imported on first use, so that
``geoattn.grids`` and the neighborhoods serve programs that never load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoattn import grids
from geoattn.neighborhoods import (
    curve_window,
    everything,
    from_edges,
    geodesic,
    nearest,
    product,
    window,
)

if TYPE_CHECKING:
    __version__: str

    from geoattn import backends as backends
    from geoattn import nn as nn
    from geoattn.functional import attention as attention
    from geoattn.functional import merge as merge
    from geoattn.pictures import picture as picture

_LATE = {
    "attention": "geoattn.functional",
    "merge": "geoattn.functional",
    "picture": "geoattn.pictures",
}
_LATE_MODULES = {"backends", "nn", "models", "tasks", "plans", "xarray"}

__all__ = [
    "attention",
    "backends",
    "curve_window",
    "everything",
    "from_edges",
    "geodesic",
    "grids",
    "merge",
    "nearest",
    "nn",
    "picture",
    "product",
    "window",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    if name in _LATE_MODULES:
        return import_module(f"geoattn.{name}")
    raise AttributeError(f"module 'geoattn' has no attribute {name!r}")


def _version() -> str:
    """The version that was installed; "0+unknown" for sources that are used without being installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("geoattn")
    except PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
