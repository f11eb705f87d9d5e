"""Names of zarr that are not public, all that the package stands on; other files take them from here.

Each was read in zarr 3.0 to 3.1. If a release of zarr moves one, this file and no other has to follow.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of asynchronous work, on the loop that zarr's own calls use."""
    from zarr.core.sync import sync

    return sync(work)


def asynchronous(array: Any) -> Any:
    """The array whose reads can be awaited (public as ``async_array`` in releases after 3.1.3)."""
    return array._async_array
