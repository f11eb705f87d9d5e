"""``ds.geoattn`` on xarray's objects.

xarray has no entry points for accessors, so this package registers its own: by name as soon as both
packages are imported, whichever comes first, or with :mod:`geoattn.xarray` at the latest.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any


def register(xarray: ModuleType, accessor: Callable[[Any], Any]) -> None:
    """Register what makes ``ds.geoattn`` of a Dataset or DataArray, once.

    A package that is half imported, or another one of this name, is left alone.
    """
    if not hasattr(xarray, "register_dataarray_accessor"):
        return
    for kind, make in (
        (xarray.Dataset, xarray.register_dataset_accessor),
        (xarray.DataArray, xarray.register_dataarray_accessor),
    ):
        if not hasattr(kind, "geoattn"):
            make("geoattn")(accessor)
