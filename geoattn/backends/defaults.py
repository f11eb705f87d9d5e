"""Which backends ``backend=None`` tries on which machine, in which order, and what says that it should.

A row without a file of results stands on counted work and on tests alone. The first row that fits a device
counts; other devices have the reference.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

NOT_MEASURED = "not measured"


class Default(NamedTuple):
    """A kind of machine and the backends that are tried on it."""

    machine: str
    #: of the tensors
    device: str
    fits: Callable[[], bool]
    order: tuple[str, ...]
    #: a file in ``benchmarks/results``, or :data:`NOT_MEASURED`
    evidence: str


def _rocm() -> bool:
    return torch.version.hip is not None


def _arm() -> bool:
    return platform.machine().lower() in ("arm64", "aarch64")


def _any() -> bool:
    return True


DEFAULTS = (
    Default("GPUs of AMD", "cuda", _rocm, ("sdpa", "triton", "flex", "reference"), NOT_MEASURED),
    Default("GPUs of NVIDIA", "cuda", _any, ("sdpa", "cuda", "triton", "flex", "reference"), NOT_MEASURED),
    # the kernels of "cpu" are vector code for any processor that LLVM knows; tests/test_neon.py reads Arm's
    Default("Arm CPUs", "cpu", _arm, ("sdpa", "cpu", "reference"), NOT_MEASURED),
    Default("x86 CPUs", "cpu", _any, ("sdpa", "cpu", "reference"), "cpu.json"),
    Default("Apple's GPU", "mps", _any, ("reference",), NOT_MEASURED),
)


@cache
def default(device: str) -> Default | None:
    """The row of the table for tensors on a type of device of this machine, or None."""
    return next((row for row in DEFAULTS if row.device == device and row.fits()), None)


def devices() -> tuple[str, ...]:
    """The types of devices in the table."""
    return tuple(dict.fromkeys(row.device for row in DEFAULTS))
