"""``ds.geoattn`` on xarray's objects, whichever of the two packages is imported first.

``import geoattn`` does not import xarray, and xarray has no entry points for accessors. If xarray is
there already, the accessor is registered at once, otherwise right after its import. What is registered
is a name: the accessor itself, and torch with it, is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from geoattn._after import after_import


def geoattn(data: Any) -> Any:
    """What the grid of a Dataset or DataArray gives: ``ds.geoattn.grid``, ``ds.geoattn.mean()``, …

    See :class:`geoattn.xarray.accessor.Accessor`.
    """
    return import_module("geoattn.xarray.accessor").Accessor(data)


def offer() -> None:
    """Register the accessor now, or as soon as xarray is imported."""
    after_import("xarray", register)


def register(xarray: Any) -> None:
    """Register the accessor with xarray, once."""
    if not hasattr(xarray, "register_dataarray_accessor"):  # another module of this name
        return
    for kind, make in (
        (xarray.Dataset, xarray.register_dataset_accessor),
        (xarray.DataArray, xarray.register_dataarray_accessor),
    ):
        if not hasattr(kind, "geoattn"):
            make("geoattn")(geoattn)
