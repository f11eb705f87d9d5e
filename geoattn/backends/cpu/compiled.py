"""Compilation: once per machine, kept on disk, and announced when it happens."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from geoattn._files import cache_folder

logger = logging.getLogger("geoattn")


@functools.cache
def _digest() -> str:
    """Fingerprint of every source file that goes into the compiled code."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Keeps compiled code in geoattn's cache folder, in one folder for each state of the sources.

    Numba by itself watches only the file that defines a function; ours are made of several.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._line = function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(cache_folder("cpu") / _digest()[:16])

    def get_source_stamp(self) -> str:
        return _digest()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> Self | None:
        locator = cls(function)
        try:
            locator.ensure_cache_path()  # type: ignore[no-untyped-call]
        except OSError:
            return None
        return locator


class _Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes: list[type[object]] = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    """Numba's disk cache at our place; it says so when code must be compiled."""

    _impl_class = _Implementation
    announced = False

    def load_overload(self, signature: Any, target: Any) -> Any:
        found = super().load_overload(signature, target)  # type: ignore[no-untyped-call]
        if found is None and not _Cache.announced:
            _Cache.announced = True
            logger.warning(
                "geoattn compiles its CPU kernels for this machine, which takes some seconds; "
                "they are kept in %s and load at once from then on",
                self.cache_path,
            )
        return found


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function of the CPU backend: without the interpreter lock, cached on disk."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        dispatcher._cache = _Cache(function)  # type: ignore[no-untyped-call]
    except RuntimeError:
        logger.warning(
            "geoattn compiles its CPU kernels anew in each process, since %s cannot be written; "
            "the environment variable GEOATTN_CACHE names another folder",
            cache_folder("cpu"),
        )
    return dispatcher
