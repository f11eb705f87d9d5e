"""Backends: the ways to run the operator, and the one place that chooses among them.

Calling this module, ``geoattn.backends()``, tells which backends can run here. To add one, write a
class after :class:`geoattn.backends.base.Backend` and name it in the two tables below.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import cast

from torch import Tensor

from geoattn.backends.base import Backend
from geoattn.neighborhoods.base import Neighborhood

#: name → (module, class); modules are imported when the backend is first asked for
KNOWN: dict[str, tuple[str, str]] = {
    "sdpa": ("geoattn.backends.sdpa", "FusedDense"),
    "cpu": ("geoattn.backends.cpu.backend", "Cpu"),
    "cuda": ("geoattn.backends.cuda.backend", "Cuda"),
    "flex": ("geoattn.backends.flex", "Flex"),
    "reference": ("geoattn.backends.reference", "Reference"),
}

#: device type → backends in the order in which ``backend=None`` tries them; other devices: the reference
AUTOMATIC: dict[str, tuple[str, ...]] = {
    "cpu": ("sdpa", "cpu", "reference"),
    "cuda": ("sdpa", "cuda", "flex", "reference"),
}

_last: str | None = None


class Status(dict[str, str]):
    """Backend name → "available", or the reason why it cannot run here."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {state}" for name, state in self.items())


def status() -> Status:
    """Which backends can run on this machine at all."""
    return Status({name: get(name).unavailable() or "available" for name in KNOWN})


def last() -> str | None:
    """Name of the backend that ran most recently in this process, None before the first call."""
    return _last


@cache
def get(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    ValueError
        If no backend has this name.
    """
    if name not in KNOWN:
        raise ValueError(f"backend {name!r} is unknown; known backends: {', '.join(KNOWN)}")
    module, backend = KNOWN[name]
    return cast(Backend, getattr(import_module(module), backend)())


def refusal(name: str, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
    """Why the named backend cannot run these arguments on this machine, or None."""
    backend = get(name)
    return backend.unavailable() or backend.refuses(q, k, v, hood)


def choose(name: str | None, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> Backend:
    """The named backend, or the first that runs these arguments.

    Raises
    ------
    ValueError
        If the name is unknown.
    RuntimeError
        If the named backend cannot run these arguments; another is never put in its place.
    """
    global _last
    if name is None:
        name = next(n for n in automatic(q) if refusal(n, q, k, v, hood) is None)
    elif (reason := refusal(name, q, k, v, hood)) is not None:
        raise RuntimeError(
            f"backend {name!r} cannot run this call: {reason}; backend=None chooses one that can"
        )
    _last = name
    return get(name)


def automatic(q: Tensor) -> tuple[str, ...]:
    """Names that ``backend=None`` tries for this query tensor, in order; the reference takes all."""
    return AUTOMATIC.get(q.device.type, ("reference",))


class _Callable(ModuleType):
    """Lets ``geoattn.backends()`` be a question while ``geoattn.backends`` stays a package."""

    def __call__(self) -> Status:
        return status()


sys.modules[__name__].__class__ = _Callable
