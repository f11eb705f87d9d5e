"""Warnings that point at the line of the caller, however deep in the library they are found."""

from __future__ import annotations

import sys
import warnings
from itertools import count

#: packages whose frames are passed over: what runs between the caller and a warning
_BETWEEN = ("geoattn", "torch", "functools", "contextlib", "lightning", "importlib")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn of something at the innermost line that is neither ours nor torch's."""
    for level in count(1):
        try:
            frame = sys._getframe(level)
        except ValueError:  # all is between
            level = 2
            break
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _BETWEEN:
            break
    warnings.warn(message, category, stacklevel=level + 1)
