"""The kernels' arguments as they lie in memory: each class is the struct of that name in ``cuda/``.

A block of arguments is made of all its numbers at once, in the order in which they lie: a plan's are a tuple
that it keeps, and :func:`view`, :func:`factor` and :func:`related` give those of tensors. It is an array of
words of 64 bits, of which calls that differ in nothing but where their tensors lie write the addresses anew.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

_pointer, _float = ctypes.c_void_p, ctypes.c_float
_long, _int, _unsigned = ctypes.c_int64, ctypes.c_int32, ctypes.c_uint32

#: how :mod:`struct` writes a number
_CODES: dict[Any, str] = {_pointer: "Q", _float: "f", _long: "q", _int: "i", _unsigned: "I"}


def numbers_of(structure: type[ctypes.Structure]) -> Iterator[tuple[str, int, Any]]:
    """Name, offset and type of each number of a struct, those of structs in it too, as they lie."""
    for name, kind, *_ in structure._fields_:
        offset = getattr(structure, name).offset
        if issubclass(kind, ctypes.Structure):
            for inner, further, number in numbers_of(kind):
                yield f"{name}.{inner}", offset + further, number
        else:
            yield name, offset, kind


#: a block of arguments
Words = array  # type: ignore[type-arg]


class Block(ctypes.Structure):
    """What a kernel is launched with."""

    #: names of the addresses that calls write anew
    ADDRESSES: ClassVar[tuple[str, ...]] = ()

    _packing: ClassVar[struct.Struct]
    #: words of these addresses
    places: ClassVar[tuple[int, ...]]

    @classmethod
    def of(cls, *numbers: float) -> Words[int]:
        """A block of these numbers; a pointer of 0 is null."""
        return array("Q", cls._packing.pack(*numbers))


def _packed(structure: type[Block]) -> type[Block]:
    """Let a class know how its numbers are written."""
    text, end = "<", 0
    for _, offset, kind in numbers_of(structure):
        text += f"{offset - end}x{_CODES[kind]}"
        end = offset + ctypes.sizeof(kind)
    structure._packing = struct.Struct(f"{text}{ctypes.sizeof(structure) - end}x")
    offsets = {name: offset for name, offset, _ in numbers_of(structure)}
    structure.places = tuple(offsets[name] // 8 for name in structure.ADDRESSES)
    return structure


class View(ctypes.Structure):
    """A tensor ``[batch, token, head, channel]`` where it lies; strides in bytes, channels side by side."""

    _fields_: ClassVar = [("data", _pointer), ("batch", _long), ("head", _long), ("token", _unsigned)]


def view(x: Tensor) -> tuple[int, int, int, int]:
    """The numbers of a :class:`View`."""
    size, strides = x.element_size(), x.stride()
    return x.data_ptr(), strides[0] * size, strides[2] * size, strides[1] * size


class Plan(ctypes.Structure):
    """A plan: see :class:`geoattn.backends.cuda.plans.DevicePlan`."""

    ARRAYS: ClassVar = (
        "row_order", "column_order", "schedule", "tile_class", "tile_shift", "starts", "entries", "masks",
        "hidden",
    )  # fmt: skip
    _fields_: ClassVar = [*((name, _pointer) for name in ARRAYS), ("ring", _int)]


class Scale(ctypes.Structure):
    """The factor of q·k: a number, or a float32 tensor ``[batch or 1, head]``."""

    _fields_: ClassVar = [("each", _pointer), ("batch", _long), ("all", _float)]


def factor(scale: float | Tensor) -> tuple[int, int, float]:
    """The numbers of a :class:`Scale`."""
    if isinstance(scale, Tensor):
        return scale.data_ptr(), 0 if scale.shape[0] == 1 else scale.shape[1], 0.0
    return 0, 0, scale


class Relation(ctypes.Structure):
    """A bias for every pair: the numbers of a plan and a table, in units of log 2."""

    _fields_: ClassVar = [
        *((name, _pointer) for name in ("ids", "numbers", "table")),
        *((name, _long) for name in ("batch", "query", "head")),
    ]


def related(numbers: tuple[int, int] | None, table: Tensor | None) -> tuple[int, ...]:
    """The numbers of a :class:`Relation`: those of a plan, and of a table whose entries lie side by side.

    The table is ``[batch or 1, head, number]``, or ``[batch, query, head, number]``.
    """
    if numbers is None or table is None:
        return 0, 0, 0, 0, 0, 0
    batch, *query, head, _ = table.stride()
    return *numbers, table.data_ptr(), 0 if table.shape[0] == 1 else batch, *(query or [0]), head


@_packed
class Forward(Block):
    ADDRESSES: ClassVar = (
        *(f"{name}.data" for name in ("q", "k", "v", "out", "lse")),
        *("key_bias", "scale.each", "relation.table"),
    )
    _fields_: ClassVar = [
        ("plan", Plan),
        *((name, View) for name in ("q", "k", "v", "out", "lse")),
        ("key_bias", _pointer),
        ("key_bias_batch", _long),
        *((name, _int) for name in ("batch", "heads", "shared_by", "score_dim", "value_dim")),
        ("scale", Scale),
        ("relation", Relation),
    ]


@_packed
class Gradients(Block):
    VIEWS: ClassVar = (
        "row_score", "row_value", "column_score", "column_value", "row_score_gradient", "row_value_gradient",
    )  # fmt: skip
    ADDRESSES: ClassVar = (
        *(f"{name}.data" for name in VIEWS),
        *("statistics", "key_bias", "row_gradient", "scale.each", "relation.table"),
    )
    _fields_: ClassVar = [
        ("plan", Plan),
        *((name, View) for name in VIEWS),
        ("statistics", _pointer),
        ("key_bias", _pointer),
        ("key_bias_batch", _long),
        ("row_gradient", _pointer),
        *((n, _int) for n in ("batch", "heads", "shared_by", "queries", "keys", "score_dim", "value_dim")),
        ("scale", Scale),
        ("relation", Relation),
    ]


@_packed
class Delta(Block):
    VIEWS: ClassVar = ("out", "out_gradient", "lse", "lse_gradient")
    ADDRESSES: ClassVar = (*(f"{name}.data" for name in VIEWS), "statistics")
    _fields_: ClassVar = [
        *((name, View) for name in VIEWS),
        ("statistics", _pointer),
        ("rows", _long),
        *((name, _int) for name in ("heads", "queries", "value_dim")),
    ]


@_packed
class Table(Block):
    _fields_: ClassVar = [
        ("plan", Plan),
        *((name, View) for name in ("q", "out_gradient", "k", "v")),
        ("statistics", _pointer),
        ("key_bias", _pointer),
        ("key_bias_batch", _long),
        *((name, _pointer) for name in ("items", "tiles", "sums")),
        ("n_items", _int),
        *((n, _int) for n in ("batch", "heads", "shared_by", "queries", "score_dim", "value_dim")),
        ("scale", Scale),
        ("relation", Relation),
    ]
