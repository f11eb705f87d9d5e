"""``ds.geoattn`` on xarray's objects, whichever of the two packages is imported first.

``import geoattn`` does not import xarray, and xarray has no entry points for accessors. If xarray is
there already, the accessor is registered at once. Otherwise a finder waits for its import and registers
it right after; once that has happened it is gone. What is registered is a name: the accessor itself, and
torch with it, is imported when it is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def geoattn(data: Any) -> Any:
    """What the grid of a Dataset or DataArray gives: ``ds.geoattn.grid``, ``ds.geoattn.mean()``, …

    See :class:`geoattn.xarray.accessor.Accessor`.
    """
    return import_module("geoattn.xarray.accessor").Accessor(data)


def offer() -> None:
    """Register the accessor now, or as soon as xarray is imported."""
    xarray = sys.modules.get("xarray")
    if xarray is None:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    elif hasattr(xarray, "register_dataarray_accessor"):
        register(xarray)


def register(xarray: Any) -> None:
    """Register the accessor with xarray, once."""
    for kind, make in (
        (xarray.Dataset, xarray.register_dataset_accessor),
        (xarray.DataArray, xarray.register_dataarray_accessor),
    ):
        if not hasattr(kind, "geoattn"):
            make("geoattn")(geoattn)


class _Finder(MetaPathFinder):
    """Finds xarray by asking the other finders, and sees to it that its loader calls :func:`register`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "xarray":
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(fullname, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _Loader(spec.loader, self)
                    return spec
        return None


class _Loader(Loader):
    """xarray's own loader, and one step after it."""

    def __init__(self, own: Any, finder: _Finder) -> None:
        self._own = own
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # from here on everything is as if this loader had never been there
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)
