"""What torch.compile would see of the Triton kernels through ``torch.library.triton_op``; no GPU is needed.

    python benchmarks/triton_op.py

Two wrapped launches are compiled as far as the graph, on tensors of the CPU; nothing runs. The first is the
forward pass as the backend launches it; the second reads a kept tensor, as a plan is. See ``docs/triton.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch.library import triton_op, wrap_triton
from triton.runtime import driver
from triton_variants import Device

import geoattn as ga
from geoattn.backends.triton.backend import Triton, kernel
from geoattn.backends.triton.variants import Variant

HOOD = ga.window(ga.grids.cartesian((300,)), 9)
KEPT = torch.arange(300.0)


class Wrapped(Triton):
    """The backend, whose launches torch traces."""

    def architecture(self, device: torch.device) -> str:
        return "sm_90"

    def launch(
        self, variant: Variant, programs: int, arguments: tuple[Any, ...], device: torch.device
    ) -> None:
        wrap_triton(kernel(variant.kernel))[(programs,)](*arguments, **variant.constants, **variant.options)


@triton_op("geoattn_shown::attend", mutates_args={})
def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    found = Wrapped().forward(q, k, v, None, HOOD, 0.3)
    return found.out, found.lse


@triton.jit
def copy(source: Any, target: Any, n: int, N: tl.constexpr) -> None:
    i = tl.arange(0, N)
    tl.store(target + i, tl.load(source + i, mask=i < n), mask=i < n)


@triton_op("geoattn_shown::read_kept", mutates_args={})
def read_kept(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    wrap_triton(copy)[(1,)](KEPT, out, x.numel(), N=512)
    return out


def traced(call: Callable[..., Any], *operands: Tensor) -> str:
    """The graph that torch.compile hands to its compiler, or why there is none."""
    found: list[str] = []

    def show(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Any:
        found.append(graph.code.strip())
        raise RuntimeError("nothing shall run")

    try:
        torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=show))(*operands)
    except Exception as error:
        return found[0] if found else str(error).split("  Hint:")[0].strip()
    return "it ran"


def main() -> None:
    logging.disable(logging.WARNING)
    driver.set_active(Device("sm_90"))
    q = torch.zeros(1, 300, 2, 64, dtype=torch.bfloat16)
    print(f"torch {torch.__version__}, triton {triton.__version__}\n")
    print(f"the forward pass of the backend:\n{traced(lambda x: attend(x, x, x), q)}\n")
    print(f"a launch that reads a kept tensor:\n{traced(read_kept, torch.ones(300))}")


if __name__ == "__main__":
    main()
