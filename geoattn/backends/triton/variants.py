"""Which sizes a kernel gets: rows and columns of a step, channels at once, warps, stages of its pipeline.

``benchmarks/triton_variants.py`` compiles them for every architecture, and says what comes of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

#: head dims that the kernels take
MOST_CHANNELS = 512
#: queries of one program, at most, of the kernel that notes what the backward pass needs to know of them
NOTED = 32
DTYPES = (torch.bfloat16, torch.float16, torch.float32)

#: bytes of shared memory that a program may have, where it is not :data:`LEAST_SHARED_MEMORY`
_SHARED_MEMORY = {
    "sm_80": 163 << 10,
    "sm_87": 163 << 10,
    "sm_90": 227 << 10,
    "sm_100": 227 << 10,
    "sm_103": 227 << 10,
    "sm_110": 227 << 10,
    "gfx950": 160 << 10,
}
_LEAST = {"sm": 99 << 10, "gf": 64 << 10}


def shared_memory(architecture: str) -> int:
    """Bytes of shared memory that a program may have."""
    return _SHARED_MEMORY.get(architecture, _LEAST[architecture[:2]])


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to run a kernel."""

    kernel: str
    #: compile-time arguments by name
    sizes: tuple[tuple[str, Any], ...]
    warps: int
    stages: int
    #: programs that share a block's rows, each with its channels of the sums
    slices: int = 1

    @property
    def constants(self) -> dict[str, Any]:
        return dict(self.sizes)

    def walking(self, gathered: bool) -> Variant:
        """The same for a plan of single keys, or of whole tiles."""
        return dataclasses.replace(self, sizes=(*self.sizes, ("GATHERED", gathered)))

    @property
    def options(self) -> dict[str, Any]:
        """What else the compiler is told."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a variant is chosen by: ``shared`` query heads use one key head, pairs ``related`` by a bias."""

    dtype: torch.dtype
    score_dim: int
    value_dim: int
    shared: int
    architecture: str
    related: bool = False

    @property
    def consumer(self) -> bool:
        """Whether it is consumers' Blackwell."""
        return self.architecture in ("sm_120", "sm_121")

    @property
    def precision(self) -> str:
        """How float32 is multiplied: as three products of tf32, or as it is where matrix units take it."""
        return "ieee" if self.architecture.startswith("gfx") else "tf32x3"

    def widths(self, most: int) -> dict[str, Any]:
        return {
            "SCORE_DIM": self.score_dim,
            "SCORE_WIDTH": _width(self.score_dim, most, self.consumer),
            "VALUE_DIM": self.value_dim,
            "VALUE_WIDTH": _width(self.value_dim, most, self.consumer),
            "PRECISION": self.precision,
        }


def _width(channels: int, most: int, consumer: bool = False) -> int:
    """Channels at once: a power of 2, 16 at least; on consumers' Blackwell 32, or ptxas spills."""
    least = 32 if consumer else 16
    return min(max(least, 1 << (channels - 1).bit_length()), most)


class Steps(NamedTuple):
    """What fits registers and shared memory, by the bytes of a row: see the table of the benchmark."""

    #: up to so many bytes a step has 64 columns
    most_of_64: int
    #: up to so many 32; beyond, rows are read a part at a time, and programs share the channels of the sums
    most_of_32: int
    #: of the pipeline
    stages_of_64: int
    stages_of_32: int


_STEPS = {
    "wgmma": {
        "attend": Steps(256, 512, 3, 2),
        "query_gradient": Steps(256, 512, 3, 2),
        "key_gradients": Steps(256, 512, 2, 2),
    },
    "tcgen05": {
        "attend": Steps(256, 256, 3, 2),
        "query_gradient": Steps(256, 256, 3, 2),
        "key_gradients": Steps(256, 256, 2, 2),
    },
    "mma": {
        "attend": Steps(128, 512, 3, 2),
        "query_gradient": Steps(128, 256, 2, 2),
        "key_gradients": Steps(64, 256, 2, 2),
    },
    "mfma": {
        "attend": Steps(128, 256, 2, 2),
        "query_gradient": Steps(128, 256, 1, 1),
        "key_gradients": Steps(0, 256, 1, 1),
    },
}


def _unit(architecture: str) -> str:
    """What multiplies matrices: AMD's units, Hopper's, those of Blackwell in data centers, and all others."""
    if architecture.startswith("gfx"):
        return "mfma"
    return {"sm_90": "wgmma", "sm_100": "tcgen05", "sm_103": "tcgen05", "sm_110": "tcgen05"}.get(
        architecture, "mma"
    )


def _row(shape: Shape) -> int:
    """Bytes of a row; a number of float32 that is split in two counts twice."""
    size = shape.dtype.itemsize * (2 if shape.dtype == torch.float32 and shape.precision != "ieee" else 1)
    return max(shape.score_dim, shape.value_dim) * size


def _of(kernel: str, shape: Shape, pack: int, own: str | None, more: dict[str, Any]) -> Variant:
    """A variant whose programs share the channels of ``own`` sums, "SCORE" or "VALUE", or do not share."""
    unit, row = _unit(shape.architecture), _row(shape)
    steps = _STEPS[unit][kernel]
    narrow = row > steps.most_of_32
    widest = max(shape.score_dim, shape.value_dim)
    # without instructions for whole warp groups, operands take registers too
    crowded = unit in ("mma", "mfma")
    parts = 8 if unit == "mfma" or (unit == "mma" and row >= 512) else 4
    columns = 64 if row <= steps.most_of_64 and not (crowded and shape.related) else 32
    if unit == "mma":
        split = shape.dtype == torch.float32
        of_keys = narrow and kernel == "key_gradients" and own == "SCORE"
        columns = 16 if (split and not shape.consumer) or (of_keys and not split) else columns
    one_tile = pack == 2 or (narrow and unit == "mfma") or (unit == "mma" and shape.dtype == torch.float32)
    widths = shape.widths(min(64, max(16, _width(widest, MOST_CHANNELS) // parts)) if narrow else 128)
    sizes = {
        "SHARED": shape.shared,
        **({"PACK": pack} if kernel != "key_gradients" else {}),
        "TILES": 1 if one_tile else 2,
        "N": columns,
        **widths,
        **more,
    }
    stages = 1 if narrow else steps.stages_of_64 if columns == 64 else steps.stages_of_32
    slices = 1 if own is None else -(-widths[f"{own}_DIM"] // widths[f"{own}_WIDTH"])
    return Variant(kernel, tuple(sizes.items()), warps=8, stages=stages, slices=slices)


def _pack(shape: Shape) -> int:
    """Heads that share keys and whose rows lie below each other, in place of those of two tiles."""
    return 2 if shape.shared % 2 == 0 else 1


def forward(shape: Shape) -> Variant:
    return _of("attend", shape, _pack(shape), "VALUE", {})


def query_gradient(shape: Shape) -> Variant:
    return _of("query_gradient", shape, _pack(shape), "SCORE", {})


def key_gradients(shape: Shape) -> list[Variant]:
    """Both gradients at once, or a kernel each where their sums are too wide for the registers of one."""
    if _row(shape) <= 128:
        return [_of("key_gradients", shape, 1, None, {"SCORE_SIDE": True, "VALUE_SIDE": True})]
    return [
        _of("key_gradients", shape, 1, "SCORE", {"SCORE_SIDE": True, "VALUE_SIDE": False}),
        _of("key_gradients", shape, 1, "VALUE", {"SCORE_SIDE": False, "VALUE_SIDE": True}),
    ]


def note(value_dim: int) -> Variant:
    """What the backward pass needs to know of each query."""
    rows = NOTED if value_dim <= 128 else NOTED // 2
    sizes = {"VALUE_DIM": value_dim, "VALUE_WIDTH": _width(value_dim, 128), "N": rows}
    return Variant("note", tuple(sizes.items()), warps=4, stages=1)


def table_gradient(shape: Shape) -> Variant:
    """Tiles of 64 queries by 32 keys: their sums stay in registers."""
    widths = shape.widths(64 if _row(shape) <= 256 else 32)
    return Variant(
        "table_gradient", (("SHARED", shape.shared), *widths.items(), ("N", 32)), warps=4, stages=1
    )
