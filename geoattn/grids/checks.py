"""Checks that the constructors of grids share."""

from __future__ import annotations

import operator
from typing import Any


def integer(name: str, value: Any) -> int:
    """The value as an int, refused by the name the caller knows it by if it is none."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def positive(**counts: int) -> None:
    """Refuse counts below 1, by the names the caller knows them by."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
