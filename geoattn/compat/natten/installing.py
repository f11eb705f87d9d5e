"""``import natten`` for code that says so, where NATTEN is not installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, DistributionFinder
from os import PathLike
from types import ModuleType
from typing import Any

from geoattn._warning import warn
from geoattn.compat.natten import functional, modules

#: release of NATTEN whose fused calls these are
VERSION = "0.21.6+geoattn"


class _Metadata(Distribution):
    """What ``importlib.metadata`` reads: libraries ask it whether NATTEN is there."""

    def read_text(self, filename: str) -> str | None:
        if filename == "METADATA":
            return (
                f"Metadata-Version: 2.1\nName: natten\nVersion: {VERSION}\nSummary: geoattn.compat.natten\n"
            )
        return None

    def locate_file(self, path: str | PathLike[str]) -> Any:
        raise FileNotFoundError(f"geoattn.compat.natten has no file {path}")


class _Finder(DistributionFinder):
    def find_spec(self, *_: Any) -> None:
        return None  # modules are in sys.modules already

    def find_distributions(self, context: Any = None) -> Iterable[Distribution]:
        return [_Metadata()] if context is None or context.name in (None, "natten") else []


def install(replace: bool = False) -> ModuleType:
    """Make ``import natten`` and ``from natten.functional import …`` find :mod:`geoattn.compat.natten`.

    For this process; before what imports NATTEN is imported. ``importlib.metadata`` then knows
    of a NATTEN too, because libraries ask it.

    Parameters
    ----------
    replace
        Whether to stand in the place of an installed NATTEN. What imported it before keeps it.

    Returns
    -------
    ModuleType
        The module ``natten``, the real one where it was left.

    Warns
    -----
    UserWarning
        If NATTEN itself is there and is left.

    Examples
    --------
    >>> ga.compat.natten.install(replace=True).na2d is ga.compat.natten.na2d
    True
    """
    there = sys.modules.get("natten")
    if getattr(there, "__version__", None) == VERSION and there is not None:
        return there
    if not replace and (there is not None or PathFinder.find_spec("natten") is not None):
        warn("NATTEN itself is installed and is left in its place; install(replace=True) stands in for it")
        return import_module("natten")
    for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
        del sys.modules[name]
    package = ModuleType("natten", "NATTEN's calls on geoattn's operator; see geoattn.compat.natten.")
    package.__spec__ = ModuleSpec("natten", None, is_package=True)
    package.__path__ = []
    for part, names in ((functional, functional.__all__), (modules, modules.__all__)):
        for name in names:
            setattr(package, name, getattr(part, name))
    vars(package).update(functional=functional, modules=modules, __version__=VERSION, HAS_LIBNATTEN=False)
    sys.modules.update({"natten": package, "natten.functional": functional, "natten.modules": modules})
    sys.meta_path.insert(0, _Finder())
    return package
