"""Plans are built once: kept in memory, and on disk where building took a while."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from geoattn._files import cache_folder
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans.base import Plan
from geoattn.plans.builder import build

#: number of the layout that the builder produces; any change of its result must raise it
LAYOUT = 5

#: plans that took longer to build, in seconds, are written to disk: reading beats building by far
WORTH_KEEPING = 0.25

#: bytes of plans held in memory; the least recently used are dropped first
MEMORY = 1 << 30

_held: OrderedDict[str, Plan] = OrderedDict()
_lock = threading.RLock()


def plan(hood: Neighborhood, query_tile: int = 64, key_tile: int = 64) -> Plan:
    """The plan of a neighborhood: from memory, else from disk, else built.

    Parameters and errors are those of :func:`geoattn.plans.build`. Equal neighborhoods share one
    plan. Files lie in the folder ``plans`` of geoattn's cache (see the environment variable
    ``GEOATTN_CACHE``), named by content; those that cannot be read are built anew.
    """
    key = f"{hood.digest}-{query_tile}x{key_tile}-{LAYOUT}"
    with _lock:
        found = _held.get(key)
        if found is None:
            found = _from_disk_or_built(hood, query_tile, key_tile, key)
            _held[key] = found
            while len(_held) > 1 and sum(p.nbytes for p in _held.values()) > MEMORY:
                _held.popitem(last=False)
        _held.move_to_end(key)
        return found


def _from_disk_or_built(hood: Neighborhood, query_tile: int, key_tile: int, key: str) -> Plan:
    path = cache_folder("plans") / f"{key}.npz"
    found = read(path)
    if found is None:
        start = time.perf_counter()
        found = build(hood, query_tile, key_tile)
        if time.perf_counter() - start > WORTH_KEEPING:
            try:
                write(path, found)
            except OSError as error:
                warnings.warn(
                    f"the plan of {hood!r} is not kept on disk: {error}; "
                    "GEOATTN_CACHE can name a folder that is writable",
                    stacklevel=4,
                )
    return found


def write(path: Path, plan: Plan) -> None:
    """Write a plan so that readers see all of it or nothing, whatever else writes meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            fields = ((f.name, getattr(plan, f.name)) for f in dataclasses.fields(Plan))
            np.savez(file, **{name: value for name, value in fields if value is not None})
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: Path) -> Plan | None:
    """The plan in a file; None if there is no such file, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: dict[str, Any] = {name: file[name] for name in file.files}  # checksums are compared
        return Plan(**{name: array.item() if array.ndim == 0 else array for name, array in arrays.items()})
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
