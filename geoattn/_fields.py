"""One check that the fields of a value hold what their annotations say."""

from __future__ import annotations

import dataclasses
import numbers
import operator
import types
import typing
from typing import Any, Literal


def check_fields(value: Any) -> None:
    """Refuse a field of the wrong kind, by its name; whole numbers of numpy become ints.

    ``int`` takes no fraction and no bool, ``float`` any real number, ``bool`` nothing else. Finite or
    positive is for the class to say.

    Raises
    ------
    TypeError
        If a field holds something else; the message quotes it.
    ValueError
        If it is none of the literals that its annotation lists.
    """
    hints = _hints(type(value))
    for name, hint in hints.items():
        given = getattr(value, name)
        if _is(given, hint):
            continue
        choices = _choices(hint)
        if choices and isinstance(given, str):
            raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {given!r}")
        raise TypeError(f"{name} must be {_said(hint)}, got {given!r}")
    for name, hint in hints.items():
        given = getattr(value, name)
        if int in _parts(hint) and isinstance(given, numbers.Integral) and not isinstance(given, bool):
            object.__setattr__(value, name, operator.index(given))


def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _choices(hint: Any) -> list[Any]:
    found = [typing.get_args(part) for part in _parts(hint) if typing.get_origin(part) is Literal]
    return [choice for part in found for choice in part]


def _is(given: Any, hint: Any) -> bool:
    parts = _parts(hint)
    if len(parts) > 1:
        return any(_is(given, part) for part in parts)
    if typing.get_origin(hint) is Literal:
        return given in typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        (part, *_) = typing.get_args(hint)
        return isinstance(given, tuple) and all(_is(one, part) for one in given)
    if typing.get_origin(hint) is dict:
        return isinstance(given, dict)
    if hint is int:
        return isinstance(given, numbers.Integral) and not isinstance(given, bool)
    if hint is float:
        return isinstance(given, numbers.Real) and not isinstance(given, bool)
    return given is None if hint is type(None) else isinstance(given, hint)


def _said(hint: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        type(None): "None",
        str: "a name",
    }

    def one(part: Any) -> str:
        if typing.get_origin(part) is tuple:
            return f"a tuple, each {_said(typing.get_args(part)[0])}"
        if typing.get_origin(part) is dict:
            return "a dictionary"
        if typing.get_origin(part) is Literal:
            return " or ".join(map(repr, typing.get_args(part)))
        return words.get(part) or f"a {part.__name__}"

    return " or ".join(map(one, _parts(hint)))
