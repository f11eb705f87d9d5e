"""The CUDA kernels, executed on the CPU: right on every kind of plan, and the checks that say so work."""

from __future__ import annotations

import shutil

import emulator
import matrix
import numpy as np
import oracle
import pytest
import torch
from emulator import Emulated, EmulationError

import geoattn as ga
from geoattn.backends.cuda.plans import device_plan

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    monkeypatch.setitem(ga.backends.KNOWN, "emulated", ("emulator", "Emulated"))


def problem(hood, dtype, dim=32, dim_v=32, heads=2, kv_heads=2, batch=1, bias=None, seed=0, **options):
    """Random operands; ``bias`` is "shared" or "batch", and hides some keys."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    nq, nk = hood.query_grid.shape, hood.key_grid.shape
    if bias is not None:
        values = normal(*nk) if bias == "shared" else normal(batch, *nk)
        values[torch.rand(values.shape, generator=generator) < 0.1] = -torch.inf
        options["key_bias"] = values.float()
    shapes = (batch, *nq, heads, dim), (batch, *nk, kv_heads, dim), (batch, *nk, kv_heads, dim_v)
    q, k, v = (normal(*shape).to(dtype) for shape in shapes)
    grad_lse = normal(batch, *nq, heads).float()
    return matrix.Case(hood, q, k, v, options, normal(batch, *nq, heads, dim_v).to(dtype), grad_lse)


def some_queries_see_nothing():
    rng = np.random.default_rng(5)
    seen = rng.random((90, 130)) < 0.2
    seen[rng.random(90) < 0.3] = False
    seen[7] = True
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    return ga.from_edges(ga.grids.cartesian((90,)), ga.grids.cartesian((130,)), indptr, np.nonzero(seen)[1])


PROBLEMS = {
    "window on a plane": lambda: problem(ga.window(ga.grids.cartesian((20, 13)), (5, 7)), BF16),
    "causal dilated window": lambda: problem(
        ga.window(ga.grids.cartesian((14, 16)), 3, dilation=2, causal=True), BF16, bias="batch", batch=2
    ),
    "disc on a sphere": lambda: problem(
        ga.geodesic(ga.grids.equiangular(20, 80), radius=40.0), BF16, heads=1, kv_heads=1
    ),
    "disc between grids": lambda: problem(
        ga.geodesic(ga.grids.gaussian(8, 16), ga.grids.healpix(4), radius=40.0), BF16, bias="shared"
    ),
    "queries that see nothing": lambda: problem(
        some_queries_see_nothing(), BF16, heads=4, kv_heads=2, batch=2
    ),
    "all keys": lambda: problem(ga.everything(ga.grids.cartesian((128,))), BF16, heads=2, kv_heads=1),
    "narrow heads in fp16": lambda: problem(
        ga.geodesic(ga.grids.healpix(4), radius=30.0), F16, dim=16, dim_v=16, heads=2, kv_heads=1
    ),
    "values wider than keys in fp16": lambda: problem(
        ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0), F16, dim=20, dim_v=64, bias="batch", batch=2
    ),
    "wide heads": lambda: problem(
        ga.window(ga.grids.cartesian((9, 9)), 5), BF16, dim=128, dim_v=120, heads=1, kv_heads=1
    ),
    "float32": lambda: problem(
        ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0),
        F32,
        heads=2,
        kv_heads=1,
        bias="shared",
        batch=2,
    ),
    "odd dims in float32": lambda: problem(some_queries_see_nothing(), F32, dim=21, dim_v=27, bias="batch"),
    "widest float32": lambda: problem(
        ga.window(ga.grids.cartesian((70,)), 9), F32, dim=256, dim_v=256, heads=1, kv_heads=1
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_kernels_match_float64(name):
    matrix.check(PROBLEMS[name](), "emulated")


def test_float32_is_within_1e5_of_float64():
    """Split precision: far closer than tf32 alone, whose error is about 1e-3."""
    case = problem(ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0), F32, heads=2, kv_heads=1)
    weights = torch.as_tensor(np.array(case.hood.key_grid.weights)).flatten()
    q, k, v = (x.flatten(1, 2) for x in (case.q, case.k, case.v))
    true, _ = oracle.attention(q, k, v, oracle.edges(case.hood), weights=weights)
    out = ga.attention(case.q, case.k, case.v, case.hood, backend="emulated").flatten(1, 2)
    assert (out - true).abs().max() <= 1e-5 * true.abs().max()
    assert (out - true).norm() <= 1e-6 * true.norm()


def results(case, backend):
    """out, lse and the gradients of q, k and v, straight from a backend."""
    hood, scale = case.hood, 0.2
    q, k, v, do, dlse = (
        x.flatten(1, -3) for x in (case.q, case.k, case.v, case.grad_out, case.grad_lse[..., None])
    )
    out, lse = backend.forward(q, k, v, None, hood, scale)
    gradients = backend.backward(do, dlse[..., 0], q, k, v, None, out, lse, hood, scale, False)
    return out, lse, gradients.q, gradients.k, gradients.v


def test_results_repeat_bit_for_bit_in_any_order_of_threads_and_blocks():
    case = PROBLEMS["disc on a sphere"]()
    first, second = (results(case, Emulated(seed=seed)) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_operands_are_read_where_they_lie(monkeypatch):
    """Heads first, a slice of fused projections, broadcast over the batch: no copy is made."""
    hood = ga.window(ga.grids.cartesian((8, 12)), 5)
    fused = torch.randn(2, 96, 2, 3 * 32).bfloat16()
    q = torch.randn(2, 2, 96, 32).bfloat16().transpose(1, 2)
    k, v = fused[..., 32:64], fused[:1, ..., 64:].expand(2, -1, -1, -1)
    monkeypatch.setattr(torch.nn.functional, "pad", lambda *_: pytest.fail("an operand was copied"))
    strided = Emulated().forward(q, k, v, None, hood, 0.3)
    plain = Emulated().forward(q.contiguous(), k.contiguous(), v.contiguous(), None, hood, 0.3)
    assert torch.equal(strided.out, plain.out)
    assert torch.equal(strided.lse, plain.lse)


def test_plans_under_test_hold_every_kind_of_tile():
    """Shared lists with shifts, full tiles beside partial ones, plans without a mask, empty lists."""

    def plan(name):
        return device_plan(PROBLEMS[name]().hood, torch.device("cpu"))

    sphere = plan("disc on a sphere")
    assert sphere.tile_shift.any()
    assert len(sphere.starts) - 1 < sphere.n_tiles
    assert (sphere.entries[:, 2] >= 0).any()
    assert (sphere.entries[:, 2] < 0).any()
    assert not plan("all keys").masked


FAULTS = {
    "wrong wait count": (
        ("forward.cu", "<0>();\n        barrier();  // this", "<1>();\n        barrier();  // this"),
        "before its copy has landed",
    ),
    "missing barrier": (
        ("forward.cu", "barrier();  // this step's keys", "// this step's keys"),
        "race|before its copy has landed",
    ),
    "divergent collective": (
        ("forward.cu", "total += from_lane_xor(total, 2)", "if (lane % 8) total += from_lane_xor(total, 2)"),
        "divergent warp|wait forever",
    ),
    "address out of bounds": (
        ("tiles.cuh", "load_matrices(words, row(2 * step))", "load_matrices(words, row(2 * step) + 999424)"),
        "out of bounds",
    ),
    "wrong fragment address": (
        ("tiles.cuh", "row(tile + 2 * m * T::EIGHT_ROWS, lane % 16, lane / 16)",
         "row(tile + 2 * m * T::EIGHT_ROWS, (lane + 1) % 16, lane / 16)"),
        None,
    ),
    "wrong mask bit": (
        ("walk.cuh", "n % 4 * 8 + element % 2", "n % 4 * 8 + 1 - element % 2"),
        None,
    ),
    "unfinished copy": (
        ("tiles.cuh", "token >= 0 && (c + lane)", "token >= 0 && row != 5 && (c + lane)"),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name):
    """A fault is reported by the emulator, or, if it only computes something else, shows in the result."""
    edit, message = FAULTS[name]
    case = PROBLEMS["window on a plane"]()
    q, k, v = (x.flatten(1, 2) for x in (case.q, case.k, case.v))
    right = ga.backends.get("reference").forward(q, k, v, None, case.hood, 0.2).out.float()

    def off(backend) -> float:
        found = backend.forward(q, k, v, None, case.hood, 0.2).out.float()
        return torch.nan_to_num(found - right, nan=torch.inf).abs().max().item()

    assert off(Emulated()) < 0.02
    if message is None:
        assert off(Emulated(edits=(edit,))) > 0.1
    else:
        with pytest.raises(EmulationError, match=message):
            off(Emulated(edits=(edit,)))


def test_accesses_outside_every_array_are_reported():
    """Reads and writes of global memory stay within the tensors of the launch."""
    edit = ("forward.cu", "a.lse.token, token)", "a.lse.token, token + 100000000)")
    case = PROBLEMS["window on a plane"]()
    q, k, v = (x.flatten(1, 2) for x in (case.q, case.k, case.v))
    with pytest.raises(EmulationError, match="outside every array"):
        Emulated(edits=(edit,)).forward(q, k, v, None, case.hood, 0.2)


def test_the_emulator_skips_with_a_reason_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert emulator.Emulated().unavailable() == "g++ is not installed"
