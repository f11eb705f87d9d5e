"""Attention for geometric domains: planes and spheres, windows and discs, one operator.

The names below are the public API. What needs torch is imported on first use, so that
``geoattn.grids`` and the neighborhoods serve programs that never load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoattn import _extras, grids, relations
from geoattn._accessor import register
from geoattn._after import after_import
from geoattn.neighborhoods import (
    curve_window,
    everything,
    from_edges,
    geodesic,
    heads,
    k_hop,
    nearest,
    product,
    union,
    window,
)

if TYPE_CHECKING:
    from geoattn import commands as commands
    from geoattn import compat as compat
    from geoattn import models as models
    from geoattn import nn as nn
    from geoattn import parallel as parallel
    from geoattn import plans as plans
    from geoattn import plot as plot
    from geoattn import tasks as tasks
    from geoattn import testing as testing
    from geoattn import training as training
    from geoattn import xarray as xarray
    from geoattn.backends import Backends
    from geoattn.functional import attention as attention
    from geoattn.functional import explain as explain
    from geoattn.functional import merge as merge
    from geoattn.plot import picture as picture

    __version__: str
    backends: Backends  # the module, which can also be called

_LATE = {
    "attention": "geoattn.functional",
    "explain": "geoattn.functional",
    "merge": "geoattn.functional",
    "picture": "geoattn.plot",
}
#: imported when first named; some of them need an extra of the package
_LATE_MODULES = {
    "backends",
    "commands",
    "compat",
    "models",
    "nn",
    "parallel",
    "plans",
    "plot",
    "tasks",
    "testing",
    "training",
    "xarray",
}
#: what parts cannot do without, beside what geoattn is installed with
_NEEDED = {"training": ("lightning",), "xarray": ("xarray",)}

__all__ = [
    "attention",
    "backends",
    "curve_window",
    "everything",
    "explain",
    "from_edges",
    "geodesic",
    "grids",
    "heads",
    "k_hop",
    "merge",
    "nearest",
    "nn",
    "picture",
    "product",
    "relations",
    "union",
    "window",
]


def _accessor(data: Any) -> Any:
    """What the grid of a Dataset or DataArray gives: ``ds.geoattn.grid``, ``ds.geoattn.mean()``, …

    Imported when it is first used. See :class:`geoattn.xarray.accessor.Accessor`.
    """
    return import_module("geoattn.xarray.accessor").Accessor(data)


after_import("xarray", lambda xarray: register(xarray, _accessor))
# exported programs name our ops: whoever imported geoattn and torch can load them
after_import("torch", lambda _: import_module("geoattn.derivatives"))

if not TYPE_CHECKING:  # to a type checker every name above is known, and any other is a mistake

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return import_module("geoattn._version").installed()
        if name in _LATE:
            found = globals()[name] = getattr(import_module(_LATE[name]), name)
            return found
        if name in _LATE_MODULES:
            _extras.require(f"ga.{name}", *_NEEDED.get(name, ()))
            return import_module(f"geoattn.{name}")
        raise AttributeError(f"module 'geoattn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_LATE_MODULES, "neighborhoods", "__version__", *_OWN})


_OWN = [name for name in globals() if name.startswith("__")]
