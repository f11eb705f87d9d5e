"""A small language for vector loops: what the micro-kernels are written in.

Numba's own loops fail to vectorise where they matter here (slices lose their unit stride, signed
indices wrap around, the alias checks run out), so the micro-kernels are emitted as explicit vector
LLVM IR. LLVM lowers it for any instruction set; this module only chooses widths that suit the
machine's registers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from geoattn.backends.cpu.numba_private import machine_tuple

Value = Any  # an LLVM value; llvmlite carries no types

INDEX = ir.IntType(64)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Vector registers of the processor that numba compiles for."""

    vector_bytes: int
    registers: int

    @property
    def lanes(self) -> int:
        """Queries that run side by side, for either element type: one float32 vector, at least 8."""
        return max(8, self.vector_bytes // 4)


#: processors that carry out 512-bit instructions in two halves: short rows of lanes cost them nothing, and
#: more of the lanes hold a pair that counts
HALVED = frozenset({"znver4"})


def host_machine() -> Machine:
    """The vector registers that numba's code generator may use here."""
    return machine_of(*machine_tuple())


def machine_of(triple: str, processor: str, features: str) -> Machine:
    """The vector registers of a processor, by LLVM's names."""
    enabled = set(features.split(","))
    if "+avx512f" in enabled and processor not in HALVED:
        return Machine(vector_bytes=64, registers=32)
    if "+avx512vl" in enabled:
        return Machine(vector_bytes=32, registers=32)
    if "+avx2" in enabled:
        return Machine(vector_bytes=32, registers=16)
    if triple.startswith(("aarch64", "arm64")):
        return Machine(vector_bytes=16, registers=32)
    return Machine(vector_bytes=16, registers=16)


def index(value: int) -> Value:
    """An index constant."""
    return ir.Constant(INDEX, value)


#: Minimax polynomials of 2^f on [-1/2, 1/2], lowest power first, fitted with relative weight.
EXP2_FLOAT = (
    1.0,
    0.693147061560251,
    0.2402223532236195,
    0.05550678368720907,
    0.009671961679595494,
    0.001327463336532476,
)
#: Taylor terms ln(2)^n / n!; at |f| = 1/2 the first one left out is below 2e-17.
EXP2_DOUBLE = tuple(math.log(2.0) ** n / math.factorial(n) for n in range(14))


class Vectors:
    """Vector operations of one element type on rows of ``lanes`` elements, emitted at a builder."""

    def __init__(self, builder: Any, element: Any, machine: Machine) -> None:
        self.builder = builder
        self.element = element
        self.is_double = isinstance(element, ir.DoubleType)
        self.integer = ir.IntType(64 if self.is_double else 32)
        self.width = machine.vector_bytes // (8 if self.is_double else 4)
        self.type = ir.VectorType(element, self.width)
        self.integers = ir.VectorType(self.integer, self.width)
        #: vectors that make one row of lanes
        self.per_row = machine.lanes // self.width
        self.lanes = machine.lanes
        #: accumulators that leave registers for operands
        self.accumulators = 12 if machine.registers == 16 else 24

    # -- constants and conversions ------------------------------------------------------------------

    def constant(self, value: float) -> Value:
        return ir.Constant(self.type, [value] * self.width)

    def integer_constant(self, value: int) -> Value:
        return ir.Constant(self.integers, [value] * self.width)

    def splat(self, scalar: Value, into: Any = None) -> Value:
        into = into or self.type
        undefined = ir.Constant(into, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, undefined, zeros)

    # -- memory ---------------------------------------------------------------------------------------

    def pointer(self, address: Value, element: Any = None) -> Value:
        """An integer address as a pointer to elements."""
        return self.builder.inttoptr(address, (element or self.element).as_pointer())

    def at(self, pointer: Value, *offsets: Value) -> Value:
        """The pointer moved on by the sum of the offsets, in elements."""
        for offset in offsets:
            pointer = self.builder.gep(pointer, [offset])
        return pointer

    def load(self, pointer: Value) -> Value:
        return self.builder.load(
            self.builder.bitcast(pointer, self.type.as_pointer()), align=self.element_bytes
        )

    def store(self, value: Value, pointer: Value) -> None:
        self.builder.store(
            value, self.builder.bitcast(pointer, self.type.as_pointer()), align=self.element_bytes
        )

    def broadcast(self, pointer: Value) -> Value:
        """One element of memory in every place of a vector."""
        return self.splat(self.builder.load(pointer))

    def looked_up(self, pointer: Value, numbers: Value) -> Value:
        """The elements of a table that stand under a vector of int32 numbers."""
        b, lanes = self.builder, self.width
        wide = ir.VectorType(INDEX, lanes)
        offsets = b.mul(b.sext(numbers, wide), ir.Constant(wide, [self.element_bytes] * lanes))
        addresses = b.add(self.splat(b.ptrtoint(pointer, INDEX), wide), offsets)
        pointers = b.inttoptr(addresses, ir.VectorType(self.element.as_pointer(), lanes))
        flags = ir.VectorType(ir.IntType(1), lanes)
        name = f"llvm.masked.gather.v{lanes}f{64 if self.is_double else 32}.v{lanes}p0"
        function = b.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(self.type, [pointers.type, ir.IntType(32), flags, self.type])
            function = ir.Function(b.module, kind, name)
        every = ir.Constant(flags, [True] * lanes)
        return b.call(
            function, [pointers, ir.Constant(ir.IntType(32), self.element_bytes), every, self.constant(0.0)]
        )

    def load_numbers(self, pointer: Value) -> Value:
        """A vector of int32 numbers, one for each lane of a vector."""
        kind = ir.VectorType(ir.IntType(32), self.width)
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=4)

    def prefetch(self, pointer: Value) -> None:
        """Ask for a cache line that will be read soon."""
        name, word = "llvm.prefetch.p0", ir.IntType(32)
        byte = ir.IntType(8).as_pointer()
        function = self.builder.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
            function = ir.Function(self.builder.module, kind, name)
        read, keep, data = (ir.Constant(word, flag) for flag in (0, 3, 1))
        self.builder.call(function, [self.builder.bitcast(pointer, byte), read, keep, data])

    def load_index(self, pointer: Value) -> Value:
        """A stored int32 as an index."""
        return self.builder.sext(self.builder.load(pointer), INDEX)

    @property
    def element_bytes(self) -> int:
        return 8 if self.is_double else 4

    # -- arithmetic -------------------------------------------------------------------------------------

    def _call(self, name: str, *operands: Value) -> Value:
        full = f"llvm.{name}.v{self.width}f{64 if self.is_double else 32}"
        function = self.builder.module.globals.get(full)
        if function is None:
            kind = ir.FunctionType(self.type, [self.type] * len(operands))
            function = ir.Function(self.builder.module, kind, full)
        return self.builder.call(function, operands)

    def multiply_add(self, x: Value, y: Value, z: Value) -> Value:
        # fmuladd, not fma: without hardware for it the latter becomes a library call.
        return self._call("fmuladd", x, y, z)

    def maximum(self, x: Value, y: Value) -> Value:
        """The larger, and y where either is NaN: one instruction on x86."""
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y)

    def visible(self, bits: Value, vector: int) -> Value:
        """Which lanes of one vector of the row have their bit set in an integer."""
        first = vector * self.width
        mine = ir.Constant(self.integers, [1 << (first + i) for i in range(self.width)])
        if self.is_double:
            bits = self.builder.zext(bits, self.integer)
        chosen = self.builder.and_(self.splat(bits, self.integers), mine)
        return self.builder.icmp_unsigned("!=", chosen, self.integer_constant(0))

    def exp2(self, x: Value) -> Value:
        """2^x up to the exponents' top; exactly 0 from the smallest normal exponent down, NaN of NaN."""
        mantissa = 52 if self.is_double else 23
        bias = 1023 if self.is_double else 127
        b = self.builder
        # One below the smallest normal exponent: its scale factor has all bits zero.
        x = self.maximum(self.constant(-float(bias)), x)
        # Adding 1.5 * 2^mantissa rounds to an integer and leaves that integer in the low bits.
        magic = self.constant(1.5 * 2.0**mantissa)
        shifted = b.fadd(x, magic)
        fraction = b.fsub(x, b.fsub(shifted, magic))
        coefficients = EXP2_DOUBLE if self.is_double else EXP2_FLOAT
        power = self.constant(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            power = self.multiply_add(power, fraction, self.constant(coefficient))
        exponent = b.shl(b.bitcast(shifted, self.integers), self.integer_constant(mantissa))
        factor = b.add(exponent, self.integer_constant(bias << mantissa))
        return b.fmul(power, b.bitcast(factor, self.type))

    def transposed(self, rows: Sequence[Value]) -> list[Value]:
        """The columns of a square block of ``width`` row vectors."""
        rows, step = list(rows), 1
        while step < self.width:
            for i in range(self.width):
                if not i & step:
                    upper, lower = rows[i], rows[i + step]
                    rows[i] = self._merged(upper, lower, step, 0)
                    rows[i + step] = self._merged(upper, lower, step, step)
            step *= 2
        return rows

    def _merged(self, upper: Value, lower: Value, step: int, offset: int) -> Value:
        """Blocks of ``step`` elements from two rows in turn: the even blocks of both, or the odd ones."""
        word = ir.IntType(32)
        places = [(p & ~step) + offset + (self.width if p & step else 0) for p in range(self.width)]
        mask = ir.Constant(ir.VectorType(word, self.width), places)
        return self.builder.shuffle_vector(upper, lower, mask)

    # -- control flow -----------------------------------------------------------------------------------

    @contextmanager
    def loop(self, start: Value, stop: Value, step: int, carried: Sequence[Value] = ()) -> Iterator[Loop]:
        """A counted loop with loop-carried values: set ``loop.carry`` to their next values inside."""
        loop = Loop(self.builder, start, stop, carried)
        yield loop
        loop.close(step)

    def strips(
        self, stop: Value, sizes: Sequence[int], carried: Sequence[Value] = ()
    ) -> Iterator[tuple[Loop, int]]:
        """Cover 0..stop by loops of falling step sizes; what the last size leaves over is left out.

        Each loop carries on the values that the one before it ended with.
        """
        begin = index(0)
        for size in sizes:
            room = self.builder.sub(stop, index(size - 1))
            with self.loop(begin, room, size, carried) as loop:
                yield loop, size
            begin, carried = loop.counter, loop.values


class Loop:
    """One loop under construction; after closing, ``counter`` and ``values`` are those at its end."""

    def __init__(self, builder: Any, start: Value, stop: Value, carried: Sequence[Value]) -> None:
        self.builder = builder
        before = builder.block
        self.head = builder.append_basic_block("head")
        self.body = builder.append_basic_block("body")
        self.after = builder.append_basic_block("after")
        builder.branch(self.head)
        builder.position_at_end(self.head)
        self.counter = builder.phi(INDEX)
        self.counter.add_incoming(start, before)
        self.values = []
        for value in carried:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            self.values.append(phi)
        builder.cbranch(builder.icmp_signed("<", self.counter, stop), self.body, self.after)
        builder.position_at_end(self.body)
        self.carry: list[Value] = list(self.values)

    def close(self, step: int) -> None:
        following = self.builder.add(self.counter, index(step))
        last = self.builder.block
        self.counter.add_incoming(following, last)
        for phi, value in zip(self.values, self.carry, strict=True):
            phi.add_incoming(value, last)
        back = self.builder.branch(self.head)
        back.set_metadata("llvm.loop", _as_written(self.builder.module))
        self.builder.position_at_end(self.after)


def _as_written(module: Any) -> Any:
    """Loop metadata that forbids unrolling: these loops fill the registers, and copies would spill."""
    forbid = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = module.add_metadata([forbid, ir.Constant(INDEX, len(module.metadata))])
    loop.operands = (loop, forbid)  # LLVM tells loops apart by a reference to themselves
    return loop
