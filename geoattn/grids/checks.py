"""Checks of numbers that constructors share."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def integer(name: str, value: Any) -> int:
    """The value as an int, refused by the name the caller knows it by if it is none."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def real(name: str, value: Any) -> float:
    """The value as a float: a number, or an array or tensor of one, that no gradient leads to."""
    if getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} must be a number that nothing is learned through, got a tensor that carries gradients, "
            f"{value!r}; they would be lost: pass {name}.item()"
        )
    if isinstance(value, bool | str | bytes) or value is None:
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def numbers(name: str, values: Any) -> NDArray[np.float64]:
    """The values as float64: real numbers, none of them masked, that no gradient leads to."""
    if getattr(values, "requires_grad", False):
        raise TypeError(f"{name} must be numbers that nothing is learned through, got a tensor of gradients")
    if np.ma.isMaskedArray(values) and (masked := int(np.ma.getmaskarray(values).sum())):
        raise ValueError(f"{name} is masked at {masked} places: leave these out, in all that goes with it")
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} must be real numbers, got {array.dtype}")
    return array.astype(np.float64)


def positive(**counts: int) -> None:
    """Refuse counts below 1, by the names the caller knows them by."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
