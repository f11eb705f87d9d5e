"""Vector code as functions that compiled code calls, and the shape of a tile.

All addresses are integers, strides count elements, and lists of tokens and masks are int32. The
first argument, ``like``, is any value of the element type (float32 or float64): numba compiles one
version of each kernel for each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numba.extending
from llvmlite import ir
from numba import types

from geoattn.backends.cpu.vector_ir import Value, Vectors, host_machine, index

MACHINE = host_machine()
#: queries that run side by side
LANES = MACHINE.lanes
#: queries of a tile
TILE = 32
#: lists of keys are padded to a multiple of this
KEY_BLOCK = 4


def intrinsic(function: Callable[..., Any]) -> Any:
    """``numba.extending.intrinsic`` without a type: it changes the arguments of what it decorates."""
    return numba.extending.intrinsic(function)


def emitted(emit: Callable[..., None]) -> Any:
    """The numba function ``f(like, integer, …)`` whose body ``emit(vectors, value, …)`` writes.

    An argument may be None or a tuple of integers, and the emitter gets None or a tuple of values.
    """

    def typed(typing_context: Any, like: Any, *arguments: Any) -> Any:
        kept = (types.NoneType, types.BaseTuple)
        kinds = [a if isinstance(a, kept) else types.intp for a in arguments]
        signature = types.void(like, *kinds)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            element = ir.DoubleType() if signature.args[0] == types.float64 else ir.FloatType()
            given = (
                None
                if isinstance(kind, types.NoneType)
                else tuple(builder.extract_value(value, i) for i in range(len(kind)))
                if isinstance(kind, types.BaseTuple)
                else value
                for kind, value in zip(signature.args[1:], values[1:], strict=True)
            )
            emit(Vectors(builder, element, MACHINE), *given)
            return context.get_dummy_value()

        return signature, generate

    typed.__name__ = typed.__qualname__ = emit.__name__
    typed.__doc__ = emit.__doc__
    # numba reads the argument names: those of the emitter, less its vectors.
    ours = list(inspect.signature(typed).parameters.values())[:2]
    theirs = list(inspect.signature(emit).parameters.values())[1:]
    typed.__signature__ = inspect.Signature([*ours, *theirs])  # type: ignore[attr-defined]
    kernel = intrinsic(typed)
    kernel.emit = emit  # for other machines than this one, in tests
    return kernel


def list_rows(v: Vectors, base: Value, stride: Value, tokens: Value, first: Value, count: int) -> list[Value]:
    """Pointers to the rows of ``count`` listed tokens."""
    listed = [v.load_index(v.at(tokens, first, index(r))) for r in range(count)]
    return [v.at(base, v.builder.mul(token, stride)) for token in listed]
