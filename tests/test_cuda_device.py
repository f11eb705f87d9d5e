"""On a CUDA device: every backend against the float64 oracle, and what only a device can show."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading

import pytest
import torch

import geoattn as ga
from geoattn import testing
from geoattn.backends.cuda import plans as device_plans

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none"),
]

HALF_AND_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
#: largest error of float32 operands relative to the largest true value
SINGLE = 1e-5


def operands(hood, heads=4, dim=64, dtype=torch.bfloat16, batch=1):
    generator = torch.Generator("cuda").manual_seed(0)
    return [
        torch.randn(batch, *grid.shape, heads, dim, generator=generator, device="cuda").to(dtype)
        for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
    ]


def derivatives(hood, *qkv, backend="cuda", **options):
    leaves = [x.detach().requires_grad_() for x in qkv]
    out, lse = ga.attention(*leaves, hood, return_lse=True, backend=backend, **options)
    return [out, lse, *torch.autograd.grad((out.float().square().sum(), lse.sum()), leaves)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("backend", ["cuda", "flex"])
def test_random_problems_agree_with_the_oracle(backend, seed, monkeypatch):
    if backend == "cuda":
        monkeypatch.setitem(testing.TOLERANCE, torch.float32, SINGLE)
    for case in testing.cases(500 + seed, 6, HALF_AND_SINGLE, relations=0.4):
        operands = (x.to("cuda") for x in (case.q, case.k, case.v))
        reason = ga.backends.refusal(backend, *operands, case.hood, case.options.get("relation"))
        if reason is None:
            testing.check(case, backend, device="cuda")
        else:
            assert backend == "flex", f"the kernels refuse {case!r}: {reason}"


@pytest.mark.parametrize("seed", range(4))
def test_dense_attention_agrees_with_the_oracle(seed):
    def everything(rng):
        return ga.everything(*testing.random_grids(rng))

    for case in testing.cases(600 + seed, 6, (*HALF_AND_SINGLE, torch.float64), everything):
        testing.check(case, "sdpa", device="cuda")


def test_the_kernels_are_chosen_for_cuda_tensors():
    hood = ga.geodesic(ga.grids.gaussian(16, 32), radius=20.0)
    ga.attention(*operands(hood), hood)
    assert ga.backends.last() == "cuda"


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE)
def test_results_repeat_bit_for_bit(dtype):
    hood = ga.geodesic(ga.grids.equiangular(91, 180), radius=7.0)
    qkv = operands(hood, dtype=dtype)
    once = derivatives(hood, *qkv)
    for _ in range(3):
        for one, other in zip(once, derivatives(hood, *qkv), strict=True):
            assert torch.equal(one, other)


def test_a_cuda_graph_captures_forward_and_backward():
    hood = ga.window(ga.grids.cartesian((40, 56)), 7)
    qkv = operands(hood)
    expected = derivatives(hood, *qkv)
    static = [torch.zeros_like(x) for x in qkv]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        derivatives(hood, *static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = derivatives(hood, *static)
    for place, x in zip(static, qkv, strict=True):
        place.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


def graph_of(hood, *qkv):
    """A graph of forward and backward over a neighborhood, and its results on given operands."""
    static = [torch.zeros_like(x) for x in qkv]
    derivatives(ga.window(ga.grids.cartesian((40, 56)), 5), *static)  # torch's own first calls
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = derivatives(hood, *static)
    for place, x in zip(static, qkv, strict=True):
        place.copy_(x)
    return graph, found


def equal(found, expected):
    torch.cuda.synchronize()
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_cuda_graph_captures_calls_that_nothing_was_made_for_yet():
    """Plans, log-weights and kernels of the call are first needed while the graph is captured."""
    hood = ga.window(ga.grids.cartesian((40, 56)), 9)
    qkv = operands(hood, heads=3, dim=96)
    graph, found = graph_of(hood, *qkv)
    graph.replay()
    assert equal(found, derivatives(hood, *qkv))


def test_what_a_graph_reads_outlives_its_neighborhood():
    qkv = operands(ga.window(ga.grids.cartesian((40, 56)), 11))
    graph, found = graph_of(ga.window(ga.grids.cartesian((40, 56)), 11), *qkv)
    graph.replay()
    expected = [x.clone() for x in found]
    plans = device_plans._plans
    before, plans.max_bytes = plans.max_bytes, 1
    try:
        for size in (7, 13, 15):
            derivatives(ga.window(ga.grids.cartesian((40, 56)), size), *qkv)
    finally:
        plans.max_bytes = before
    for place in found:
        place.zero_()
    graph.replay()
    assert equal(found, expected)


@pytest.mark.parametrize("warm", [False, True])
def test_compiled_calls_run_as_cuda_graphs(warm):
    hood = ga.geodesic(ga.grids.gaussian(16, 32), radius=21.0 + warm)
    layer = ga.nn.Attention(64, 4, hood).cuda()
    x = torch.randn(2, 16, 32, 64, device="cuda")
    if warm:
        layer(x).sum().backward()
    compiled = torch.compile(layer, mode="reduce-overhead", fullgraph=True)
    for step in range(5):
        x = torch.randn(2, 16, 32, 64, device="cuda")
        results = []
        for run in (layer, compiled):
            layer.zero_grad()
            torch.compiler.cudagraph_mark_step_begin()
            out = run(x)
            out.square().sum().backward()
            results.append([out.detach().clone(), *(p.grad.clone() for p in layer.parameters())])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-3, msg=f"step {step}")


def test_a_thread_that_has_done_nothing_yet_launches():
    """The driver asks for a context, which torch gives a thread with its own first call there."""
    hood = ga.window(ga.grids.cartesian((40, 56)), 7)
    q, k, v = operands(hood)
    flat = [x.flatten(1, 2) for x in (q, k, v)]
    kernels = ga.backends.get("cuda")
    expected = kernels.forward(*flat, None, hood, 0.125)
    grad = torch.ones_like(expected.out)
    arguments = grad, None, *flat, None, *expected, hood, 0.125, False
    warm = kernels.backward(*arguments)
    found = []
    thread = threading.Thread(target=lambda: found.append(kernels.backward(*arguments)))
    thread.start()
    thread.join()
    assert equal(found[0][:3], warm[:3])


def test_work_runs_on_the_current_stream():
    hood = ga.window(ga.grids.cartesian((64, 64)), 9)
    q, k, v = operands(hood)
    expected = ga.attention(q, k, v, hood, backend="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # whoever does not wait for this stream reads zeros
        late = torch.zeros_like(q).copy_(q)
        out = ga.attention(late, k, v, hood, backend="cuda")
    stream.synchronize()
    assert torch.equal(out, expected)


def test_compiled_models_run_whole():
    hood = ga.geodesic(ga.grids.gaussian(16, 32), radius=20.0)
    layer = ga.nn.Attention(64, 4, hood).cuda()
    x = torch.randn(2, 16, 32, 64, device="cuda")
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-3, atol=1e-4)


def test_memory_of_a_quarter_degree_sphere_grows_with_the_tokens_alone():
    """q, k, v, out, their four gradients and statistics; never anything for a pair of tokens."""
    hood = ga.geodesic(ga.grids.equiangular(721, 1440), radius=3.0)
    q, k, v = operands(hood, heads=2, dim=32)
    plans = sum(ga.plans.plan(h, 64, 64).nbytes for h in (hood, hood.transpose()))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = derivatives(hood, q, k, v)
    peak = torch.cuda.max_memory_allocated() - before
    assert all(x.isfinite().all() for x in found)
    assert peak < 12 * q.nbytes + 2 * plans


def test_running_out_of_memory_is_an_error_that_leaves_the_library_usable():
    hood = ga.geodesic(ga.grids.gaussian(64, 128), radius=8.0)
    q, k, v = operands(hood)
    expected = ga.attention(q, k, v, hood, backend="cuda")
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + 2**20) / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            ga.attention(*(x.expand(4096, *x.shape[1:]) for x in (q, k, v)), hood, backend="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(ga.attention(q, k, v, hood, backend="cuda"), expected)


def test_operands_on_two_devices_are_refused():
    hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    q, k, v = operands(hood)
    with pytest.raises(ValueError, match="cuda"):
        ga.attention(q, k.cpu(), v, hood)
    with pytest.raises(RuntimeError, match="'cuda' cannot run this call: tensors are on cpu"):
        ga.attention(q.cpu(), k.cpu(), v.cpu(), hood, backend="cuda")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_second_device_gives_the_same():
    hood = ga.geodesic(ga.grids.gaussian(16, 32), radius=20.0)
    qkv = operands(hood)
    expected = derivatives(hood, *qkv)
    found = derivatives(hood, *(x.to("cuda:1") for x in qkv))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.cpu(), other.cpu())


# numbers come from the host, and gradients are given: nearly all kernels that run are ours
SANITIZED = """
import torch, geoattn as ga
for dtype in (torch.bfloat16, torch.float32):
    disc = ga.geodesic(ga.grids.gaussian(9, 18), radius=30.0)
    for hood in (disc, ga.window(ga.grids.cartesian((9, 11)), 5)):
        q, k, v = (torch.randn(2, *hood.query_grid.shape, h, 32).to("cuda", dtype).requires_grad_()
                   for h in (4, 2, 2))
        out, lse = ga.attention(q, k, v, hood, return_lse=True, backend="cuda")
        grads = [torch.randn(x.shape).to(x) for x in (out, lse)]
        torch.autograd.grad((out, lse), (q, k, v), grads)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if sanitizer is None:
        pytest.skip("compute-sanitizer, a part of the CUDA toolkit, is not installed")
    run = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
