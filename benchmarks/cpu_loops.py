"""What the CPU kernels' loops reach by themselves, on rows that the first cache holds.

    python benchmarks/cpu_loops.py [--rows 128] [--channels 32]

One thread, float32. Each micro-kernel runs again and again over one list of keys, in a random order, and its
multiply-adds are compared with those of torch's matrix product in the same run: how much less whole calls
reach is lists, rows from further away and what else ``benchmarks/cpu_profile.py`` shows. Prints a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from geoattn.backends.cpu import micro
from geoattn.backends.cpu.emitted import KEY_BLOCK, LANES, MACHINE

REPEATS = 2000
ONE = np.float32(0)


@numba.njit
def sums_of_values(repeats, like, x, width, tokens, count, weights, sums):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        micro.gather(
            like,
            x.ctypes.data,
            width,
            tokens.ctypes.data,
            count,
            weights.ctypes.data,
            sums.ctypes.data,
            width,
        )


@numba.njit
def gradients_of_values(repeats, like, x, width, tokens, count, weights, rows):  # type: ignore[no-untyped-def]
    for _ in range(repeats):
        micro.scatter(
            like,
            weights.ctypes.data,
            count,
            rows.ctypes.data,
            width,
            x.ctypes.data,
            width,
            tokens.ctypes.data,
            width,
        )


def _of_scores(kernel: Any) -> Any:
    @numba.njit
    def scores(repeats, like, x, width, tokens, count, queries, masks, bias, room, results, maxima):  # type: ignore[no-untyped-def]
        for _ in range(repeats):
            kernel(
                like,
                x.ctypes.data,
                width,
                tokens.ctypes.data,
                tokens.ctypes.data,
                count,
                queries.ctypes.data,
                width,
                bias.ctypes.data,
                masks.ctypes.data,
                room,
                results.ctypes.data,
                maxima.ctypes.data,
                None,
            )

    return scores


def aligned(*shape: int, fill: float = 0.0) -> NDArray[np.float32]:
    """An array that starts on a cache line."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    array = raw[skip : skip + size].reshape(shape)
    array[:] = fill
    return array


def rate(run: Callable[[], Any], multiply_adds: float) -> float:
    """GFLOP/s, of the best of some runs."""
    run()
    best = float("inf")
    for _ in range(9):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 2 * multiply_adds / best / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=128, help="keys of the list (%(default)s)")
    parser.add_argument("--channels", type=int, default=32, help="numbers of a row (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, width = options.rows // 8 * 8, options.channels
    room = n + KEY_BLOCK
    x, tokens = aligned(n, width, fill=0.1), np.random.default_rng(0).permutation(n).astype(np.int32)
    weights, sums, rows = (
        aligned(room, LANES, fill=0.1),
        aligned(LANES, width),
        aligned(LANES, width, fill=1e-6),
    )
    queries, maxima = aligned(2, width, LANES, fill=0.1), aligned(2, LANES, fill=-1e30)
    results, bias = aligned(2, room, LANES), aligned(2, room)
    masks = np.full((2, room), (1 << LANES) - 1, np.int32)
    one, two = _of_scores(micro.scores), _of_scores(micro.scores_of_two)
    work = REPEATS * n * width * LANES
    of_scores = (REPEATS, ONE, x, width, tokens, n, queries, masks, bias, room, results, maxima)
    a = torch.randn(1024, 1024)
    product = rate(lambda: a @ a, 1024.0**3)
    found = {
        "sums of values": rate(
            lambda: sums_of_values(REPEATS, ONE, x, width, tokens, n, weights, sums), work
        ),
        "scores of two groups": rate(lambda: two(*of_scores), 2 * work),
        "scores of one group": rate(lambda: one(*of_scores), work),
        "gradients of k and v": rate(
            lambda: gradients_of_values(REPEATS, ONE, x.copy(), width, tokens, n, weights, rows), work
        ),
        "matrix product": product,
    }
    print(f"{MACHINE}, {n} rows of {width} channels, one thread, float32")
    for name, flops in found.items():
        print(f"  {name:<22}{flops:6.0f} GFLOP/s  {flops / product:4.0%}")


if __name__ == "__main__":
    main()
