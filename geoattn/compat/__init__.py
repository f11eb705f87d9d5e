"""Names, signatures and weights of other packages, on this one's operator. Import the one you need.

==================================  ===================================================================
``geoattn.compat.torch_harmonics``  attention layers on the sphere, and ``convert(model)``
``geoattn.compat.natten``           neighborhood attention, fused and unfused, and ``install()``
==================================  ===================================================================

An argument of theirs that changes the result is honoured, or refused by name. One that only chooses a kernel
or a tile is accepted and noted once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoattn.compat import natten as natten
    from geoattn.compat import torch_harmonics as torch_harmonics

__all__ = ["natten", "torch_harmonics"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return import_module(f"geoattn.compat.{name}")
        raise AttributeError(f"module 'geoattn.compat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
