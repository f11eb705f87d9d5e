"""What a CUDA device can do at most: the ceilings that ``benchmarks/gpu.py`` holds its figures against.

Copies and matrix products are torch's. How fast the second cache delivers, and how fast the ``mma.sync``
instructions run that the ``cuda`` backend is made of (Hopper's own are others), tell two kernels of this
file, compiled by NVRTC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_clock import median_seconds

from geoattn.backends import driver

SOURCE = r"""
typedef unsigned int u32;

// Eight independent products per warp and round, so that none waits for the one before it.
extern "C" __global__ void products(float* out, int rounds) {
    const u32 a[4] = {threadIdx.x, 1, 2, 3}, b[2] = {4, 5};
    float sums[8][4] = {};
    for (int round = 0; round < rounds; ++round) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                "{%8, %9}, {%0, %1, %2, %3};"
                : "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
    float total = 0.f;
    for (int i = 0; i < 8; ++i)
        for (int j = 0; j < 4; ++j) total += sums[i][j];
    if (total == 1.2345f) *out = total;  // never, but the compiler cannot know
}

// All blocks read the same buffer again and again, past the first cache.
extern "C" __global__ void reads(const uint4* x, int count, int rounds, float* out) {
    u32 all = 0;
    for (int round = 0; round < rounds; ++round)
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) {
            uint4 v;
            asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                         : "l"(x + i));
            all ^= v.x ^ v.y ^ v.z ^ v.w;
        }
    if (all == 0x12345678u) *out = 1.f;
}
"""

#: multiply-adds of one mma.sync.m16n8k16, counted twice
FLOPS = 2 * 16 * 8 * 16
THREADS = 256
#: bytes that are read again and again: within the second cache of every device since compute capability 8.0
CACHED = 16 * 2**20


def machine_code(capability: int) -> bytes:
    """The two kernels for a device, by NVRTC."""
    from cuda.bindings import nvrtc

    def call(name: str, *arguments: Any) -> Any:
        result, *values = getattr(nvrtc, f"nvrtc{name}")(*arguments)
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"nvrtc{name} fails: {result.name}")
        return values[0] if values else None

    program = call("CreateProgram", SOURCE.encode(), b"ceilings.cu", 0, [], [])
    option = f"-arch=sm_{capability}".encode()
    call("CompileProgram", program, 1, [option])
    code = b" " * int(call("GetCUBINSize", program))
    call("GetCUBIN", program, code)
    return code


def ceilings() -> dict[str, float | str]:
    """Bytes and operations per second; a word in place of a number that could not be had."""
    found: dict[str, float | str] = {"bytes per second": copy_rate(), "flops per second": product_rate()}
    for name, measure in (("cached bytes per second", cached_rate), ("mma.sync flops per second", mma_rate)):
        try:
            found[name] = measure()
        except Exception as reason:  # the others are worth having without it
            found[name] = f"not measured: {type(reason).__name__}: {reason}".splitlines()[0][:200]
    return found


def copy_rate() -> float:
    x = torch.empty(2**29, device="cuda", dtype=torch.bfloat16)
    y = torch.empty_like(x)
    return 2 * x.nbytes / median_seconds(lambda: y.copy_(x))


def product_rate(n: int = 8192) -> float:
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / median_seconds(lambda: a @ b)


def _launch(name: str, *arguments: np.ndarray) -> Callable[[], None]:
    """One kernel over the whole device, as a call."""
    index = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(index)
    processors = torch.cuda.get_device_properties(index).multi_processor_count
    torch.cuda.synchronize()
    module = driver.call("ModuleLoadData", machine_code(10 * major + minor))
    function = driver.call("ModuleGetFunction", module, name.encode())
    pointers = np.array([argument.ctypes.data for argument in arguments], np.uint64)

    def launch(held: Any = arguments) -> None:
        stream = torch.cuda.current_stream().cuda_stream
        sizes = 8 * processors, 1, 1, THREADS, 1, 1, 0
        driver.call("LaunchKernel", function, *sizes, stream, pointers.ctypes.data, 0)

    return launch


def _blocks() -> int:
    return 8 * torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


def mma_rate(rounds: int = 4096) -> float:
    out = torch.zeros(1, device="cuda")
    run = _launch("products", np.array([out.data_ptr()], np.uint64), np.array([rounds], np.int32))
    return _blocks() * THREADS // 32 * 8 * rounds * FLOPS / median_seconds(run)


def cached_rate(rounds: int = 64) -> float:
    x, out = torch.zeros(CACHED // 4, device="cuda", dtype=torch.int32), torch.zeros(1, device="cuda")
    run = _launch(
        "reads",
        np.array([x.data_ptr()], np.uint64),
        np.array([CACHED // 16], np.int32),
        np.array([rounds], np.int32),
        np.array([out.data_ptr()], np.uint64),
    )
    return rounds * CACHED / median_seconds(run)
