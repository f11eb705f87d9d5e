"""The kernels' arguments as they lie in memory: each class is the struct of that name in ``cuda/``."""

from __future__ import annotations

import ctypes
from typing import ClassVar

from torch import Tensor

from geoattn.backends.cuda.plans import DevicePlan

_pointer, _float = ctypes.c_void_p, ctypes.c_float
_long, _int, _unsigned = ctypes.c_int64, ctypes.c_int32, ctypes.c_uint32


class View(ctypes.Structure):
    """A tensor ``[batch, token, head, channel]`` where it lies; strides in bytes, channels side by side."""

    _fields_: ClassVar = [("data", _pointer), ("batch", _long), ("head", _long), ("token", _unsigned)]

    @classmethod
    def of(cls, x: Tensor) -> View:
        batch, token, head = (stride * x.element_size() for stride in x.stride()[:3])
        return cls(x.data_ptr(), batch, head, token)


class Plan(ctypes.Structure):
    _fields_: ClassVar = [
        *((name, _pointer) for name in DevicePlan.ARRAYS),
        ("ring", _int),
    ]

    @classmethod
    def of(cls, plan: DevicePlan) -> Plan:
        return cls(*(getattr(plan, name).data_ptr() for name in DevicePlan.ARRAYS), plan.ring)


class Scale(ctypes.Structure):
    """The factor of q·k: a number, or a float32 tensor ``[batch or 1, head]``."""

    _fields_: ClassVar = [("each", _pointer), ("batch", _long), ("all", _float)]

    @classmethod
    def of(cls, scale: float | Tensor) -> Scale:
        if isinstance(scale, Tensor):
            return cls(scale.data_ptr(), 0 if scale.shape[0] == 1 else scale.shape[1], 0.0)
        return cls(None, 0, scale)


class Relation(ctypes.Structure):
    """A bias for every pair: the numbers of a plan and a table, in units of log 2."""

    _fields_: ClassVar = [
        *((name, _pointer) for name in ("ids", "numbers", "table")),
        *((name, _long) for name in ("batch", "query", "head")),
    ]

    @classmethod
    def of(cls, plan: DevicePlan, table: Tensor | None) -> Relation:
        """``table [batch or 1, head, number]``, or ``[batch, query, head, number]``, side by side."""
        if table is None or plan.numbers is None or plan.number_ids is None:
            return cls()
        batch, *query, head, _ = table.stride()
        strides = 0 if table.shape[0] == 1 else batch, *(query or [0]), head
        return cls(*(x.data_ptr() for x in (plan.number_ids, plan.numbers, table)), *strides)


class Forward(ctypes.Structure):
    _fields_: ClassVar = [
        ("plan", Plan),
        *((name, View) for name in ("q", "k", "v", "out", "lse")),
        ("key_bias", _pointer),
        ("key_bias_batch", _long),
        *((name, _int) for name in ("batch", "heads", "shared_by", "score_dim", "value_dim")),
        ("scale", Scale),
        ("relation", Relation),
    ]


class Gradients(ctypes.Structure):
    _fields_: ClassVar = [
        ("plan", Plan),
        *((name, View) for name in ("row_score", "row_value", "column_score", "column_value")),
        *((name, View) for name in ("row_score_gradient", "row_value_gradient")),
        ("statistics", _pointer),
        ("key_bias", _pointer),
        ("key_bias_batch", _long),
        ("row_gradient", _pointer),
        *((n, _int) for n in ("batch", "heads", "shared_by", "queries", "keys", "score_dim", "value_dim")),
        ("scale", Scale),
        ("relation", Relation),
    ]


class Delta(ctypes.Structure):
    _fields_: ClassVar = [
        *((name, View) for name in ("out", "out_gradient", "lse", "lse_gradient")),
        ("statistics", _pointer),
        ("rows", _long),
        *((name, _int) for name in ("heads", "queries", "value_dim")),
    ]


class Table(ctypes.Structure):
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
