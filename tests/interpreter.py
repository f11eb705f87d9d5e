"""The Triton backend on a CPU: its kernels, run by Triton's interpreter in a process of its own.

Triton decides when it is imported whether kernels are compiled or interpreted; a process of its own
keeps other tests as they are. ``run(function, *arguments)`` calls a function of a test module there. The
interpreter computes with numpy, which has no bfloat16: only float16 and float32 are shown here. What is
compiled for bfloat16 differs from float16 in the names of some instructions.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import torch

from geoattn import backends
from geoattn.backends.triton.backend import Triton, kernel
from geoattn.backends.triton.variants import Variant


class Interpreted(Triton):
    """The Triton backend with launches on the interpreter; ``kernels`` takes the place of some of them."""

    name = "interpreted"
    device_type = "cpu"

    def __init__(self, kernels: dict[str, Any] | None = None) -> None:
        self.kernels = kernels or {}

    def unavailable(self) -> str | None:
        return None

    def architecture(self, device: torch.device) -> str:
        return "sm_90"

    def launch(
        self, variant: Variant, programs: int, arguments: tuple[Any, ...], device: torch.device
    ) -> None:
        run = self.kernels.get(variant.kernel) or kernel(variant.kernel)
        run[(programs,)](*arguments, **variant.constants)


def register() -> None:
    """Make ``backend="interpreted"`` known to the operator, in a process that interprets."""
    backends.register("interpreted", Interpreted)


@cache
def process() -> ProcessPoolExecutor:
    """The process that interprets."""
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"  # it inherits this
    try:
        made = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=register)
        made.submit(os.getpid).result()
    finally:
        os.environ.pop("TRITON_INTERPRET")
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before
    return made


def run(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns there; what it raises is raised here."""
    return process().submit(function, *arguments).result()
