"""FlexAttention on plans: all of its path that runs without a CUDA device, and all of it with one.

torch's compiler traces the forward and the backward pass here as it does for a CUDA device, then
runs the traced graphs with plain operators in place of its CUDA kernels.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

import geoattn as ga
from geoattn import backends, testing
from geoattn.backends import flex
from geoattn.testing import oracle


@pytest.fixture
def traced(monkeypatch):
    """The backend on the CPU, every step of it but the last, which makes kernels of the graphs."""
    torch.compiler.reset()
    # torch refuses gradients on the CPU because of the kernels that it would make
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *operands: None)
    backend = flex.Flex()
    backend.attention = torch.compile(flex_attention, backend="aot_eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(backend, "refuses", lambda *operands: None)
    monkeypatch.setattr(backend, "unavailable", lambda: None)
    others = backends.get
    monkeypatch.setattr(backends, "get", lambda name: backend if name == "flex" else others(name))
    yield backend
    torch.compiler.reset()


def test_random_problems_agree_with_the_oracle(traced):
    for case in testing.cases(0, 4):
        testing.check(case, "flex")


@pytest.mark.parametrize("seed", range(2))
def test_random_problems_with_relations_agree_with_the_oracle(traced, seed):
    for case in testing.cases(200 + seed, 4, relations=1.0):
        testing.check(case, "flex")


@pytest.mark.parametrize("batched", [False, True])
def test_the_gradient_of_a_table_repeats_bit_for_bit(traced, batched):
    hood = ga.geodesic(ga.grids.gaussian(6, 12), radius=40.0)
    relation = ga.relations.angles(hood, 3)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 6, 12, 2, 16, generator=generator) for _ in range(3))
    table = torch.randn(*([2] if batched else []), 2, relation.count, generator=generator)
    table[..., 0, 1] = float("-inf")  # hides pairs

    def gradient(backend):
        leaf = table.clone().requires_grad_()
        out = ga.attention(q, k, v, hood, relation=relation, relation_bias=leaf, backend=backend)
        return torch.autograd.grad(out.square().sum(), leaf)[0]

    found = gradient("flex")
    assert torch.equal(found, gradient("flex"))
    assert (found[..., 0, 1] == 0).all()
    torch.testing.assert_close(found, gradient("reference"))


def attend(hood, key_bias, seed=0):
    """One problem, forward and backward, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(1, *grid.shape, 2, 16, generator=generator, requires_grad=True)
        for grid in (hood.query_grid, hood.key_grid, hood.key_grid)
    )
    out, lse = ga.attention(q, k, v, hood, key_bias=key_bias, return_lse=True, backend="flex")
    return torch.autograd.grad((out.sum(), lse.sum()), (q, k, v, key_bias))


def test_new_values_and_new_neighborhoods_of_the_same_sizes_are_not_compiled_anew(traced):
    grid = ga.grids.gaussian(6, 12)
    attend(ga.geodesic(grid, radius=40.0), torch.randn(grid.shape, requires_grad=True))
    with torch.compiler.set_stance("fail_on_recompile"):
        attend(ga.geodesic(grid, radius=40.0), torch.randn(grid.shape, requires_grad=True), seed=1)
        attend(ga.window(grid, (3, 5)), torch.randn(grid.shape, requires_grad=True))


def test_more_sizes_are_compiled_than_torch_would_allow_of_one_function(traced):
    hood = ga.geodesic(ga.grids.gaussian(6, 12), radius=40.0)
    with torch._dynamo.config.patch(recompile_limit=1):
        for heads in (1, 2):
            q = torch.randn(1, 6, 12, heads, 16)
            assert ga.attention(q, q, q, hood, backend="flex").shape == q.shape


def neighborhoods():
    rng = np.random.default_rng(3)
    large = ga.grids.equiangular(19, 36)
    return [
        *(testing.random_neighborhood(rng) for _ in range(12)),
        ga.geodesic(large, radius=25.0),
        ga.geodesic(large, ga.grids.gaussian(16, 32), radius=110.0),
        ga.window(ga.grids.cartesian((40, 40)), (9, 9)),
        ga.window(ga.grids.cartesian((40, 40)), (29, 29)),
        ga.window(ga.grids.cartesian((1024,)), 512),
    ]


@pytest.mark.parametrize("hood", neighborhoods(), ids=repr)
def test_the_mask_and_the_lists_of_blocks_each_say_who_sees_whom(hood):
    layout = flex.layout_of(hood, torch.device("cpu"))
    mask = layout.block_mask
    n_queries, n_keys = len(layout.query_order), len(layout.key_order)
    sees = mask.mask_mod(None, None, torch.arange(n_queries)[:, None], torch.arange(n_keys)[None])
    expected = torch.zeros(n_queries, n_keys, dtype=torch.bool)
    expected[layout.query_place[:, None], layout.key_place[None]] = oracle.edges(hood)
    assert torch.equal(sees, expected)
    seen = expected.unflatten(0, (-1, flex.BLOCK)).unflatten(2, (-1, flex.BLOCK))
    full, partial = seen.all(3).all(1), seen.any(3).any(1) & ~seen.all(3).all(1)
    for numbers, indices, blocks in (
        (mask.kv_num_blocks, mask.kv_indices, partial),
        (mask.full_kv_num_blocks, mask.full_kv_indices, full),
        (mask.q_num_blocks, mask.q_indices, partial.T),
        (mask.full_q_num_blocks, mask.full_q_indices, full.T),
    ):
        for row, number, listed in zip(blocks, numbers[0, 0], indices[0, 0], strict=True):
            assert listed[:number].tolist() == row.nonzero().flatten().tolist()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch makes kernels for CPUs with a C++ compiler")
def test_the_compiled_forward_pass_on_the_cpu_agrees_with_the_oracle():
    """torch's own kernel for CPUs, without lse: it follows the lists and reads the masks."""
    grid = ga.grids.cartesian((40, 40))
    hood = ga.window(grid, (29, 29))
    layout = flex.layout_of(hood, torch.device("cpu"))
    assert layout.block_mask.full_kv_num_blocks.sum() > 0
    assert layout.block_mask.kv_num_blocks.sum() > 0
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, grid.size, heads, 32, generator=generator) for heads in (4, 2, 2))
    bias = torch.randn(1, grid.size, generator=generator)
    *operands, additive = flex.arrange(layout, q, k, v, bias)
    with torch.no_grad():
        out = torch.compile(flex_attention, fullgraph=True, dynamic=False)(
            *(x.transpose(1, 2) for x in operands),
            score_mod=flex.add_biases(additive),
            block_mask=layout.block_mask,
            scale=0.3,
            enable_gqa=True,
        )
    found = out.transpose(1, 2).index_select(1, layout.query_place)
    expected, _ = oracle.attention(q, k, v, oracle.edges(hood), scale=0.3, bias=bias[0])
    testing.close("out", found, expected, testing.TOLERANCE[torch.float32], hood)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_random_problems_on_a_cuda_device_agree_with_the_oracle():
    checked = 0
    for case in testing.cases(1, 60, dtypes=(torch.float32, torch.float16, torch.bfloat16), relations=0.4):
        operands = [x.to("cuda").flatten(1, -3) for x in (case.q, case.k, case.v)]
        if backends.refusal("flex", *operands, case.hood, case.options.get("relation")) is None:
            testing.check(case, "flex", device="cuda")
            checked += 1
    assert checked >= 10


def refusal(device="cuda", dtype=torch.float32, dims=(32, 32), grid=None):
    hood = ga.geodesic(grid or ga.grids.gaussian(4, 8), radius=30.0)
    with FakeTensorMode():
        q, v = (torch.empty(1, hood.query_grid.size, 2, dim, device=device, dtype=dtype) for dim in dims)
    return flex.Flex().refuses(q, q, v, hood)


def test_it_says_what_it_does_not_run():
    assert refusal() is None
    assert "no backward pass" in refusal(device="cpu")
    assert "not on xpu" in refusal(device="xpu")
    assert "float64" in refusal(dtype=torch.float64)
    assert "from 16 to 256, got (8, 32)" in refusal(dims=(8, 32))
    assert "from 16 to 256, got (32, 300)" in refusal(dims=(32, 300))
    assert "more than 67108864" in refusal(grid=ga.grids.equiangular(721, 1440))


def test_on_the_cpu_it_is_refused_by_name_and_never_chosen():
    q = torch.randn(1, 4, 8, 2, 16)
    assert "flex" not in backends.AUTOMATIC["cpu"]
    with pytest.raises(RuntimeError, match="backend 'flex' cannot run this call"):
        ga.attention(q, q, q, ga.geodesic(ga.grids.gaussian(4, 8), radius=30.0), backend="flex")


def test_on_cuda_devices_it_comes_before_the_reference():
    names = backends.AUTOMATIC["cuda"]
    assert names.index("sdpa") < names.index("flex") < names.index("reference")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the list of backends says that it is available")
def test_the_list_of_backends_says_why_it_cannot_run_here():
    assert ga.backends()["flex"] == "it runs on CUDA devices, and torch finds none"
