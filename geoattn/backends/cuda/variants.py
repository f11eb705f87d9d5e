"""The variants of the kernels: what is fixed when they are compiled, and how they are launched."""

from __future__ import annotations

import dataclasses
from functools import cache, cached_property
from itertools import count

import torch

#: element type of the operands in the kernel sources
ELEMENTS = {torch.bfloat16: "BFloat16", torch.float16: "Float16", torch.float32: "Float32"}

#: head dims with a variant of their own; others run in the next larger one, whose rest is zero
HEAD_DIMS = (16, 32, 64, 96, 128, 192, 256)

#: shared memory of a block that every device since compute capability 8.0 grants
MOST_SHARED_BYTES = 99 * 1024
#: shared memory of a multiprocessor by compute capability; 100 KB where it is not named
SHARED_KILOBYTES = {80: 164, 87: 164, 90: 228, 100: 228, 103: 228, 110: 228}

#: bytes of a key and a value whose gradients' sums fit the registers of one launch
MOST_KEY_BYTES = 320

#: channels of a float32 sum that fit the registers beside what split products need
MOST_SUMMED_FLOATS = 128
MOST_SUMMED_BESIDE_NUMBERS = 96

REGISTERS = 65536  # of a multiprocessor


@dataclasses.dataclass(frozen=True)
class Variant:
    """One kernel as it is compiled and launched."""

    #: name of the kernel and of its source file
    kernel: str
    #: macros that its source reads
    definitions: tuple[tuple[str, str], ...]
    #: threads of a block
    threads: int
    #: bytes of dynamic shared memory of a block
    shared_bytes: int = 0
    #: blocks that share a row tile of the plan
    parts: int = 1
    #: blocks that a multiprocessor should hold at once
    blocks: int = 1

    @cached_property
    def number(self) -> int:
        """One for all equal variants, for the key of what is asked for at every launch."""
        return _numbers.setdefault(self, next(_next))

    @property
    def most_registers(self) -> int:
        """Registers of a thread that let as many blocks share a multiprocessor."""
        return min(255, REGISTERS // (self.threads * self.blocks) // 8 * 8)

    @property
    def columns(self) -> int:
        """Columns of a tile that a block takes at once."""
        return int(dict(self.definitions)["STEP"])

    @cached_property
    def slices(self) -> int:
        """Blocks that share the channels of a sum."""
        return int(dict(self.definitions)["SLICES"])

    def __str__(self) -> str:
        return " ".join([self.kernel, *(f"{name.lower()}={value}" for name, value in self.definitions)])


_numbers: dict[Variant, int] = {}
_next = count()


def padded(head_dim: int) -> int:
    """The head dim of the variant that runs ``head_dim``.

    Raises
    ------
    ValueError
        If no variant is as wide.
    """
    for wide in HEAD_DIMS:
        if head_dim <= wide:
            return wide
    raise ValueError(f"head dim {head_dim} is above {HEAD_DIMS[-1]}, the widest of the CUDA kernels")


@cache
def forward(
    dtype: torch.dtype, score_dim: int, value_dim: int, masked: bool, architecture: int, number_bits: int = 0
) -> Variant:
    """Output and lse.

    ``masked`` says whether the plan has tiles that are not full; ``architecture`` is a compute
    capability, such as 90 for 9.0. ``number_bits`` are those of each pair's number in a relation, 16 or 32; 0
    without one.
    """
    score, value = padded(score_dim), padded(value_dim)
    slices = _slices(dtype, value, number_bits)
    if dtype.itemsize == 4 and min(score, value) == 256 and architecture >= 120:
        slices *= 2  # NVRTC 13.0 spills otherwise
    # more columns would spill
    crowded = score == 96 or number_bits > 0 if dtype.itemsize == 2 else value // slices > 64
    return _tiled(
        "forward",
        dtype,
        score,
        value,
        masked,
        architecture,
        number_bits,
        row_channels=score,
        column_channels=score + value // slices,
        column_bytes=4,
        slices=slices,
        most_columns=128 // dtype.itemsize // (2 if crowded else 1),
        warps_at_once=_warps_at_once(dtype, score + value, architecture >= (100 if masked else 90)),
    )


@cache
def query_gradient(
    dtype: torch.dtype, score_dim: int, value_dim: int, masked: bool, architecture: int, number_bits: int = 0
) -> Variant:
    """Gradient of the queries."""
    score, value = padded(score_dim), padded(value_dim)
    return _gradients(dtype, score, value, masked, architecture, number_bits, False, ("SCORE_SIDE",))


@cache
def key_gradients(
    dtype: torch.dtype, score_dim: int, value_dim: int, masked: bool, architecture: int, number_bits: int = 0
) -> tuple[Variant, ...]:
    """Gradients of keys (with the key bias) and values: in one launch, or one each for wide heads."""
    score, value = padded(score_dim), padded(value_dim)
    sides: tuple[tuple[str, ...], ...] = (("SCORE_SIDE", "VALUE_SIDE"),)
    most = MOST_KEY_BYTES // 2 if number_bits and dtype.itemsize == 4 else MOST_KEY_BYTES
    if (score + value) * dtype.itemsize > most:
        sides = ("SCORE_SIDE",), ("VALUE_SIDE",)
    shape = dtype, score, value, masked, architecture, number_bits
    return tuple(_gradients(*shape, True, side) for side in sides)


@cache
def table_gradient(
    dtype: torch.dtype, score_dim: int, value_dim: int, masked: bool, architecture: int, number_bits: int
) -> Variant:
    """Sums of the gradients of scores that a relation's table gets its own of."""
    score, value = padded(score_dim), padded(value_dim)
    return _tiled(
        "table",
        dtype,
        score,
        value,
        masked,
        architecture,
        number_bits,
        row_channels=score + value,
        column_channels=score + value,
        column_bytes=0,  # and a key's bias, at once
        slices=1,
        most_columns=32,
        warps_at_once=_warps_at_once(dtype, score + value, True),
        stages=1,
    )


@cache
def delta(dtype: torch.dtype) -> Variant:
    """What the backward pass needs to know of each query."""
    return Variant("delta", (("ELEMENT", ELEMENTS[dtype]), ("BLOCKS", "8")), threads=128, blocks=8)


def _gradients(
    dtype: torch.dtype,
    score: int,
    value: int,
    masked: bool,
    architecture: int,
    number_bits: int,
    rows_are_keys: bool,
    sides: tuple[str, ...],
) -> Variant:
    score_side = "SCORE_SIDE" in sides
    slices = _slices(dtype, score if score_side else value, number_bits)
    widest = masked and dtype.itemsize == 4 and min(score, value) == 256
    if rows_are_keys and score_side and widest and architecture < 90:
        slices *= 2  # NVRTC 13.0 spills otherwise
    variant = _tiled(
        "gradients",
        dtype,
        score,
        value,
        masked,
        architecture,
        number_bits,
        row_channels=score + value if score_side else score,
        column_channels=score + (value if score_side else value // slices),
        column_bytes=8 if rows_are_keys else 4,
        slices=slices,
        most_columns=32,
        warps_at_once=8 if number_bits else _warps_at_once(dtype, score + value, False),
    )
    definitions = {
        "ROWS_ARE_KEYS": _flag(rows_are_keys),
        "SCORE_SIDE": _flag("SCORE_SIDE" in sides),
        "VALUE_SIDE": _flag("VALUE_SIDE" in sides),
    }
    return dataclasses.replace(variant, definitions=(*variant.definitions, *definitions.items()))


def _tiled(
    kernel: str,
    dtype: torch.dtype,
    score: int,
    value: int,
    masked: bool,
    architecture: int,
    number_bits: int,
    row_channels: int,
    column_channels: int,
    column_bytes: int,
    slices: int,
    most_columns: int,
    warps_at_once: int,
    stages: int = 2,
) -> Variant:
    """A kernel over a plan.

    It holds as many rows, and then columns (``stages`` times), in shared memory as let two blocks share a
    multiprocessor, and as the registers bear (``most_columns``). Registers are shared out so that
    ``warps_at_once`` find room, as far as shared memory does.
    """

    def shared_bytes(warps: int, step: int) -> int:
        rows = 16 * warps * row_channels
        columns = step * column_channels
        return (rows + stages * columns) * dtype.itemsize + stages * step * (column_bytes + 4)

    shapes = [(warps, step) for warps in (4, 2, 1) for step in (64, 32, 16) if step <= most_columns]
    whole = 1024 * SHARED_KILOBYTES.get(architecture, 100)
    half = whole // 2 - 1024  # the system takes 1 KB of a block
    warps, step = next(
        shape
        for limit in (min(half, MOST_SHARED_BYTES), MOST_SHARED_BYTES)
        for shape in shapes
        if shared_bytes(*shape) <= limit and shape[1] <= 32 * shape[0]
    )
    size = shared_bytes(warps, step)
    blocks = min(warps_at_once // warps, whole // (size + 1024))
    definitions = {
        "ELEMENT": ELEMENTS[dtype],
        "SCORE_DIM": str(score),
        "VALUE_DIM": str(value),
        "MASKED": _flag(masked),
        "SLICES": str(slices),
        "NUMBER_BITS": str(number_bits),
        "WARPS": str(warps),
        "STEP": str(step),
        "BLOCKS": str(blocks),
        "SHARED_BYTES": str(size),
    }
    return Variant(kernel, tuple(definitions.items()), 32 * warps, size, 4 // warps * slices, blocks)


def _warps_at_once(dtype: torch.dtype, channels: int, roomy: bool) -> int:
    """Warps that a multiprocessor should hold, so that some work while others wait.

    As many as leave room for the sums over ``channels`` of keys and values without spills; ``roomy``
    says that little more than those is kept.
    """
    size = channels * dtype.itemsize
    if size <= 64:
        return 16
    return 12 if size <= (256 if roomy and dtype.itemsize == 2 else 128) else 8


def _slices(dtype: torch.dtype, channels: int, number_bits: int) -> int:
    """Blocks that share the channels of a sum, so that each one's part fits its registers."""
    most = MOST_SUMMED_BESIDE_NUMBERS if number_bits else MOST_SUMMED_FLOATS
    return 2 if dtype.itemsize == 4 and channels > most else 1


def _flag(value: bool) -> str:
    return "true" if value else "false"


def every(architecture: int) -> list[Variant]:
    """All variants for equal head dims of keys and values, and some for unequal ones and with a relation."""
    problems = [(dim, dim, masked) for dim in HEAD_DIMS for masked in (True, False)]
    problems += [(64, 128, True), (256, 16, True)]
    variants = [delta(dtype) for dtype in ELEMENTS]
    for dtype in ELEMENTS:
        for score, value, masked in problems:
            problem = (dtype, score, value, masked, architecture)
            variants += [forward(*problem), query_gradient(*problem), *key_gradients(*problem)]
    for dtype in ELEMENTS:
        for dim in (32, 64, 128):
            related = (dtype, dim, dim, True, architecture, 16)
            variants += [forward(*related), query_gradient(*related), *key_gradients(*related)]
            variants.append(table_gradient(*related))
    return variants
