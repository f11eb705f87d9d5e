"""Where results that cost something are kept between processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder ``name`` inside geoattn's cache; it need not exist yet.

    The cache lies where the environment variable ``GEOATTN_CACHE`` says, else where the platform
    keeps caches: ``$XDG_CACHE_HOME/geoattn`` or ``~/.cache/geoattn``, ``~/Library/Caches/geoattn``
    on macOS, ``%LOCALAPPDATA%\\geoattn`` on Windows. Deleting it is always safe.
    """
    chosen = os.environ.get("GEOATTN_CACHE")
    if chosen:
        return Path(chosen).expanduser() / name
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "geoattn" / name
