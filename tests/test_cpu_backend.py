"""The compiled CPU backend against the float64 oracle, and what it promises beyond right numbers."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import testing
from geoattn.backends.cpu import vector_ir
from geoattn.backends.cpu.numba_private import machine_tuple


@pytest.mark.parametrize("seed", range(6))
def test_random_problems_agree_with_the_oracle(seed):
    for case in testing.cases(100 + seed, 8):
        testing.check(case, "cpu")


def attend(hood, threads=2, heads=3, dtype=torch.float32, **options):
    """Output, lse and gradients of q, k, v of one problem, the same for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        q, k, v = (
            torch.randn(2, *grid.shape, heads, 16, generator=generator).to(dtype).requires_grad_()
            for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
        )
        out, lse = ga.attention(q, k, v, hood, return_lse=True, backend="cpu", **options)
        gradients = torch.autograd.grad((out.square().sum(), lse.sum()), (q, k, v))
    finally:
        torch.set_num_threads(before)
    return [out.detach(), lse.detach(), *gradients]


HOODS = {
    "disc": lambda: ga.geodesic(ga.grids.equiangular(37, 72), radius=12.0),
    "window": lambda: ga.window(ga.grids.cartesian((24, 40)), (7, 5)),
    "everything": lambda: ga.everything(ga.grids.gaussian(16, 32)),
}


@pytest.mark.parametrize("hood", HOODS.values(), ids=HOODS)
def test_results_are_bitwise_the_same_at_any_thread_count(hood):
    hood = hood()
    once = attend(hood, threads=1)
    for threads in (1, 2, 3, 5):
        for one, other in zip(once, attend(hood, threads=threads), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("hood", HOODS.values(), ids=HOODS)
def test_a_hidden_key_may_hold_anything(hood):
    hood = hood()
    mask = torch.rand(hood.key_grid.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    q, k, v = (
        torch.randn(1, *hood.key_grid.shape, 2, 8, generator=torch.Generator().manual_seed(2))
        for _ in range(3)
    )
    expected = ga.attention(q, k, v, hood, key_mask=mask, backend="cpu")
    k[:, ~mask], v[:, ~mask] = float("nan"), float("inf")
    q.requires_grad_()
    found = ga.attention(q, k, v, hood, key_mask=mask, backend="cpu")
    assert torch.equal(found, expected)
    (gradient,) = torch.autograd.grad(found.sum(), q)
    assert gradient.isfinite().all()


def test_long_lists_are_worked_on_in_blocks():
    # 2592 keys per query: many blocks, each of which moves the running maximum
    grid = ga.grids.equiangular(36, 72, poles=False)
    hood = ga.everything(grid)
    ramp = torch.linspace(-40, 40, grid.size).reshape(grid.shape)
    for bias in (ramp, -ramp):
        for found, expected in zip(
            attend(hood, key_bias=bias, heads=1),
            attend(hood, key_bias=bias.double(), heads=1, dtype=torch.float64),
            strict=True,
        ):
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_neighborhood_without_edges_gives_zeros():
    grid = ga.grids.cartesian((5, 7))
    hood = ga.from_edges(grid, grid, np.zeros(grid.size + 1, np.int64), np.zeros(0, np.int64))
    q = torch.randn(1, 5, 7, 2, 3, requires_grad=True)
    out, lse = ga.attention(q, q, q, hood, return_lse=True, backend="cpu")
    assert not out.any()
    assert (lse == float("-inf")).all()
    (gradient,) = torch.autograd.grad(out.sum(), q)
    assert not gradient.any()


def test_it_is_chosen_for_tensors_on_the_cpu():
    hood = HOODS["window"]()
    q = torch.randn(1, *hood.query_grid.shape, 1, 4)
    ga.attention(q, q, q, hood)
    assert ga.backends.last() == "cpu"


AVX512 = "+sse2,+avx2,+avx512f,+avx512vl"


@pytest.mark.parametrize(
    ("triple", "processor", "features", "lanes", "registers"),
    [
        ("x86_64-unknown-linux-gnu", "sapphirerapids", AVX512, 16, 32),
        ("x86_64-unknown-linux-gnu", "znver5", AVX512, 16, 32),
        ("x86_64-unknown-linux-gnu", "znver4", AVX512, 8, 32),
        ("x86_64-unknown-linux-gnu", "haswell", "+sse2,+avx2", 8, 16),
        ("x86_64-unknown-linux-gnu", "x86-64", "+sse2", 8, 16),
        ("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon", 8, 32),
    ],
)
def test_lanes_and_registers_follow_the_processor(triple, processor, features, lanes, registers):
    machine = vector_ir.machine_of(triple, processor, features)
    assert (machine.lanes, machine.registers) == (lanes, registers)


OTHER_WIDTH = """
import sys
from geoattn.backends.cpu import vector_ir
vector_ir.host_machine = lambda: vector_ir.Machine(int(sys.argv[1]), 32)
from geoattn import testing
from geoattn.backends.cpu.emitted import LANES
assert LANES == int(sys.argv[1]) // 4
print(testing.check_backend("cpu", seed=7))
"""


@pytest.mark.skipif("+avx512vl" not in machine_tuple()[2], reason="needs a processor with AVX-512")
def test_the_other_width_of_avx512_is_right_too(tmp_path):
    other = 96 - vector_ir.host_machine().vector_bytes
    environment = {**os.environ, "GEOATTN_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", OTHER_WIDTH, str(other)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
