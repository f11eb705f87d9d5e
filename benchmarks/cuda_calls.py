"""What a call on a CUDA device costs its host, measured without a device.

    python benchmarks/cuda_calls.py             # a table, and benchmarks/results/cuda_calls.json
    python benchmarks/cuda_calls.py --profile   # where the time goes, for whoever would make it less

All that happens before a kernel runs is the package's own code, on tensors of the CPU that pose as a
device's: checks, choice of the backend, plans, outputs, blocks of arguments, and launches through
``cuda.bindings``, down to a driver's library that is compiled here and whose every function does nothing.
Beside it runs a custom op of torch that does nothing but make its outputs, with and without gradients: what
torch itself asks for such a call.

Not in it: torch's allocator for devices (a cached block is found about as fast as the CPU's are), what the
driver does with a launch (a few microseconds each), and whether a graph is being captured, which torch is
asked once for each plan. One process, one thread, calls in turn, the best of all rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import ctypes
import json
import math
import pstats
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from about import about
from torch import Tensor

import geoattn as ga
from geoattn import backends
from geoattn._files import write_text
from geoattn.backends import driver
from geoattn.backends.cuda import arguments, variants
from geoattn.backends.cuda import device as cuda_device
from geoattn.backends.cuda.backend import Cuda
from geoattn.backends.cuda.launches import Launch

RESULTS = Path(__file__).parent / "results" / "cuda_calls.json"
ROUNDS = 2000
#: microseconds above an op that does nothing
TARGETS = {"forward": 40.0, "both": 150.0}

NOTHING = """
extern "C" {
static int nothing() { return 0; }
int cuGetProcAddress_v2(const char*, void** function, int, unsigned long, int* found) {
    *function = (void*)nothing;
    if (found) *found = 0;
    return 0;
}
int cuGetProcAddress(const char* name, void** function, int version, unsigned long flags) {
    return cuGetProcAddress_v2(name, function, version, flags, 0);
}
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
}
"""


def idle_driver() -> str:
    """Let ``cuda.bindings`` find a driver that does nothing."""
    library = Path(tempfile.mkdtemp()) / "libcuda.so.1"
    options = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-x", "c++", "-", "-o", str(library)]
    subprocess.run(["g++", *options], input=NOTHING, text=True, check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from cuda.bindings import driver as bindings

    result, *_ = bindings.cuInit(0)
    assert result == bindings.CUresult.CUDA_SUCCESS
    return "cuda.bindings, to a driver whose functions do nothing"


class Posing(Cuda):
    """The CUDA backend on tensors of the CPU; kernels are launched as on a device, and are nothing."""

    name = "posing"
    device_type = "cpu"
    devices = ("cpu",)
    before = "sdpa"
    launches = 0

    def unavailable(self) -> str | None:
        return None

    def architecture(self, device: torch.device) -> int:
        return 90

    def launch(self, launch: Launch, words: arguments.Words[int], *tensors: Any) -> None:
        self.launches += 1
        cuda_device.launch(launch.variant, launch.blocks, words.buffer_info()[0], DEVICE)


DEVICE = torch.device("cuda", 0)


def pose() -> None:
    """Let ``backend=None`` take the posing backend, and launches find kernels and a stream."""
    backends.register("posing", Posing)
    cuda_device.current_stream = lambda index: 0  # torch's own, of which a CPU build has none
    cuda_device._function = _loaded


def _loaded(variant: variants.Variant, index: int) -> Any:
    from cuda.bindings import driver as bindings

    return cuda_device._functions.setdefault((variant.number, index), bindings.CUfunction(1))


# -- an op that does nothing --------------------------------------------------------------------------------

library = torch.library.Library("geoattn_calls", "DEF")
library.define("nothing(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")
library.define("nothing_backward(Tensor grad, Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor, Tensor)")


def _outputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


library.impl("nothing", _outputs, "CompositeExplicitAutograd")
library.impl("nothing_backward", _gradients, "CompositeExplicitAutograd")


class Nothing(torch.autograd.Function):
    """The two ops as one function with gradients."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return torch.ops.geoattn_calls.nothing(q, k, v)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return torch.ops.geoattn_calls.nothing_backward(grads[0], *ctx.saved_tensors)


def nothing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if torch.is_grad_enabled() and q.requires_grad:
        return Nothing.apply(q, k, v)
    return torch.ops.geoattn_calls.nothing(q, k, v)[0]


# -- measuring ----------------------------------------------------------------------------------------------

Call = Callable[[Tensor, Tensor, Tensor], Tensor]


def cases() -> dict[str, tuple[ga.neighborhoods.Neighborhood, dict[str, Any]]]:
    """Calls on grids of usual sizes: the host's cost does not depend on them."""
    disc = ga.geodesic(ga.grids.equiangular(46, 90), radius=10.0)
    plane = ga.window(ga.grids.cartesian((64, 64)), 7)
    return {
        "sphere, quadrature weights": (disc, {}),
        "plane, no weights": (plane, {"key_weights": None}),
    }


def clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def operands(hood: ga.neighborhoods.Neighborhood) -> list[Tensor]:
    shape = (1, *hood.query_grid.shape, 4, 64)
    return [torch.randn(shape).bfloat16().requires_grad_() for _ in range(3)]


def both(call: Call, leaves: list[Tensor], grad: Tensor) -> Any:
    return torch.autograd.grad(call(*leaves), leaves, grad)


def measure(call: Call, hood: ga.neighborhoods.Neighborhood, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of the call and of nothing, and what the call takes more."""
    leaves = operands(hood)
    grad = torch.ones_like(leaves[0])
    plain = [x.detach() for x in leaves]
    best = {name: {"forward": math.inf, "both": math.inf} for name in ("geoattn", "nothing")}
    for _ in range(rounds):
        for name, run in (("geoattn", call), ("nothing", nothing)):
            for what, timed in (
                ("forward", partial(run, *plain)),
                ("both", partial(both, run, leaves, grad)),
            ):
                best[name][what] = min(best[name][what], clock(timed) * 1e6)
    best["above"] = {what: best["geoattn"][what] - best["nothing"][what] for what in ("forward", "both")}
    return best


def launch_cost(rounds: int) -> float:
    """Microseconds of one launch through the bindings to a driver that does nothing."""
    variant = variants.forward(torch.bfloat16, 64, 64, True, 90)
    block = ctypes.addressof(arguments.Forward())
    return min(clock(lambda: cuda_device.launch(variant, 1, block, DEVICE)) for _ in range(rounds)) * 1e6


def profile(call: Call, hood: ga.neighborhoods.Neighborhood) -> None:
    leaves = operands(hood)
    grad = torch.ones_like(leaves[0])
    plain = [x.detach() for x in leaves]
    for name, run in (("forward", partial(call, *plain)), ("both", partial(both, call, leaves, grad))):
        run()
        profiler = cProfile.Profile()
        profiler.enable()
        for _ in range(1000):
            run()
        profiler.disable()
        print(f"\n{name}: 1,000 calls under the profiler, which makes Python's own calls dearer")
        pstats.Stats(profiler).sort_stats("tottime").print_stats(28)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of which the best counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    launcher = idle_driver()
    driver.primary(0)
    pose()
    if options.profile:
        hood, more = cases()["sphere, quadrature weights"]
        profile(lambda q, k, v: ga.attention(q, k, v, hood, **more), hood)
        return
    report = about("python benchmarks/cuda_calls.py", "triton")
    report |= {"launcher": launcher, "targets": TARGETS, "cases": {}}
    print(f"Microseconds of the host, launches by {launcher}")
    print(f"{'case':<30} {'':>8} {'geoattn':>8} {'nothing':>8} {'above':>8}")
    for name, (hood, more) in cases().items():
        found = measure(lambda q, k, v, h=hood, m=more: ga.attention(q, k, v, h, **m), hood, options.rounds)
        report["cases"][name] = found
        assert backends.last() == "posing"
        for what in ("forward", "both"):
            cells = "".join(f"{found[who][what]:9.0f}" for who in ("geoattn", "nothing", "above"))
            print(f"{name:<30} {what:>8}{cells}")
    report["launch"] = launch_cost(options.rounds)
    print(f"one launch {report['launch']:.1f}")
    write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", RESULTS)


if __name__ == "__main__":
    main()
