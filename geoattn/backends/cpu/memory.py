"""Memory by address, as compiled code reads and writes it.

Compiled code is handed no arrays: each would be seven values, counted in and out of every function, and
compiling them takes most of the time. Integers are read and written as int64, whatever their width in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types

from geoattn.backends.cpu.compiled import kernel
from geoattn.backends.cpu.emitted import intrinsic
from geoattn.backends.cpu.vector_ir import INDEX, Value, index


@intrinsic
def load(typing_context: Any, like: Any, base: Any, offset: Any) -> Any:
    """The element at an address and an offset counted in elements."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        element = context.get_value_type(signature.return_type)
        base, offset = values[1:]
        return builder.load(builder.gep(builder.inttoptr(base, element.as_pointer()), [offset]))

    return like(like, types.intp, types.intp), generate


@intrinsic
def store(typing_context: Any, like: Any, base: Any, offset: Any, value: Any) -> Any:
    """Write one element at an address and an offset counted in elements."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        _, base, offset, value = values
        builder.store(value, builder.gep(builder.inttoptr(base, value.type.as_pointer()), [offset]))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp, like), generate


def _integers(bits: int) -> tuple[Any, Any]:
    """What reads and what writes integers of a width, by address and place."""
    kind = ir.IntType(bits)

    @intrinsic
    def read(typing_context: Any, address: Any, place: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            address, place = values
            number = builder.load(builder.gep(builder.inttoptr(address, kind.as_pointer()), [place]))
            return builder.sext(number, INDEX) if bits < 64 else number

        return types.int64(types.int64, types.int64), generate

    @intrinsic
    def write(typing_context: Any, address: Any, place: Any, number: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            address, place, number = values
            number = builder.trunc(number, kind) if bits < 64 else number
            builder.store(number, builder.gep(builder.inttoptr(address, kind.as_pointer()), [place]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return read, write


#: ``flag_at(address, place)`` and ``put_flag(address, place, number)``; the same for int32 and int64
flag_at, put_flag = _integers(8)
int_at, put_int = _integers(32)
word_at, put_word = _integers(64)


def record_at(kind: type[tuple[int, ...]]) -> Any:
    """What reads a named tuple of int64 words, by address and the place of the first."""

    @intrinsic
    def read(typing_context: Any, address: Any, place: Any) -> Any:
        made = _record(kind)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            return context.make_tuple(builder, made, _words(builder, len(made), *values))

        return made(types.int64, types.int64), generate

    return read


def addresses_at(kind: type[tuple[int, ...]]) -> Any:
    """The same where the words are distances from an address, which is the third argument."""

    @intrinsic
    def read(typing_context: Any, address: Any, place: Any, start: Any) -> Any:
        made = _record(kind)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
            *where, start = values
            words = [builder.add(word, start) for word in _words(builder, len(made), *where)]
            return context.make_tuple(builder, made, words)

        return made(types.int64, types.int64, types.int64), generate

    return read


def _record(kind: type[tuple[int, ...]]) -> Any:
    fields = kind._fields  # type: ignore[attr-defined]
    return types.NamedUniTuple(types.int64, len(fields), kind)  # type: ignore[no-untyped-call]


def _words(builder: Any, count: int, address: Value, place: Value) -> list[Value]:
    first = builder.gep(builder.inttoptr(address, INDEX.as_pointer()), [place])
    return [builder.load(builder.gep(first, [index(i)])) for i in range(count)]


@intrinsic
def size_of(typing_context: Any, like: Any) -> Any:
    """Bytes of an element."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        return index(like.bitwidth // 8)

    return types.intp(like), generate


@intrinsic
def take_ticket(typing_context: Any, address: Any) -> Any:
    """Add 1 to the shared int64 counter at an address; return what it was before."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        counter = builder.inttoptr(values[0], INDEX.as_pointer())
        return builder.atomic_rmw("add", counter, index(1), "monotonic")

    return types.int64(types.intp), generate


@kernel
def fill(like, address, count, value):  # type: ignore[no-untyped-def]
    """Set ``count`` elements at an address."""
    for at in range(count):
        store(like, address, at, value)
