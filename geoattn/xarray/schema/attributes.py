"""Attributes and encodings of variables as text, so that they are part of a schema's content.

Attributes hold strings, numbers, lists and, from files, numpy numbers and arrays. The text is JSON
in which the numpy values carry their type: what was read comes back with the type it had.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def to_text(attributes: Mapping[Any, Any]) -> str:
    """The attributes as JSON, in their order; :func:`from_text` is the exact inverse."""
    return json.dumps({str(name): _encode(name, value) for name, value in attributes.items()})


def from_text(text: str) -> dict[str, Any]:
    """The attributes that :func:`to_text` wrote."""
    return {name: _decode(value) for name, value in json.loads(text).items()}


def _encode(name: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biufU":
            raise ValueError(f"attribute {name!r} holds {value!r}: no numbers, truth values or text")
        scalar = not isinstance(value, np.ndarray)
        return {"dtype": array.dtype.str, "scalar": scalar, "value": _plain(array.tolist())}
    if isinstance(value, float) and not math.isfinite(value):
        return {"dtype": "float", "value": repr(value)}
    if isinstance(value, Mapping):
        return {"dtype": "dict", "value": {str(key): _encode(name, item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_encode(name, item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"attribute {name!r} holds {value!r}: a {type(value).__name__} cannot be kept as JSON")


def _plain(value: Any) -> Any:
    """JSON has no infinities and no NaN: those become text."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value["dtype"] == "dict":
        return {key: _decode(item) for key, item in value["value"].items()}
    if value["dtype"] == "float":
        return float(value["value"])
    array = np.array(value["value"], dtype=object).astype(np.dtype(value["dtype"]))
    return array[()] if value["scalar"] else array
