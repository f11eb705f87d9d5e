"""The operator's own promises: gradients of any order, empty rows, symmetries, refusals, repeatability."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geoattn as ga
from geoattn import testing

GRID = ga.grids.equiangular(4, 5)


def operands(hood=None, *, heads=2, kv_heads=2, dim=4, dim_v=4, batch=2, dtype=torch.float64, seed=0):
    hood = hood or testing.random_edges(np.random.default_rng(seed), GRID, GRID)
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, *hood.query_grid.shape, heads, dim),
        (batch, *hood.key_grid.shape, kv_heads, dim),
        (batch, *hood.key_grid.shape, kv_heads, dim_v),
    )
    q, k, v = (torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes)
    return q, k, v, hood


def finite_outputs(hood, backend=None):
    """The operator with its infinite lse values taken out, for comparison with finite differences."""

    def run(q, k, v, bias):
        out, lse = ga.attention(q, k, v, hood, key_bias=bias, return_lse=True, backend=backend)
        return out, torch.where(lse.isinf(), 0.0, lse)

    return run


PATTERNS = {
    "edges": lambda: testing.random_edges(np.random.default_rng(0), GRID, GRID),
    "everything": lambda: ga.everything(GRID),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bias_shape", [(4, 5), (2, 4, 5)])
def test_gradients_agree_with_finite_differences(pattern, bias_shape):
    q, k, v, hood = operands(PATTERNS[pattern](), heads=4, dim=3, dim_v=2)
    bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(finite_outputs(hood), (q, k, v, bias), fast_mode=True)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("bias_shape", [(4, 5), (2, 4, 5)])
def test_second_derivatives_agree_with_finite_differences(pattern, bias_shape):
    q, k, v, hood = operands(PATTERNS[pattern](), heads=4, dim=3, dim_v=2)
    bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(finite_outputs(hood), (q, k, v, bias), fast_mode=True)


def test_second_derivatives_hold_when_operands_depend_on_each_other():
    x, _, _, hood = operands()

    def f(x):
        k = torch.sin(x)
        return ga.attention(x, k, k * x, hood)

    assert torch.autograd.gradgradcheck(f, (x,), fast_mode=True)


def test_third_derivatives_agree_with_finite_differences():
    q, k, v, hood = operands(batch=1, heads=1, kv_heads=1, dim=2, dim_v=2)

    def gradient(q, k, v):
        out, lse = ga.attention(q, k, v, hood, return_lse=True)
        loss = out.square().sum() + torch.where(lse.isinf(), 0.0, lse).sin().sum()
        return torch.autograd.grad(loss, (q, k, v), create_graph=True)

    assert torch.autograd.gradgradcheck(gradient, (q, k, v), fast_mode=True)


def test_gradients_of_weights_and_of_a_mask_agree_with_finite_differences():
    q, k, v, hood = operands()
    weights = torch.rand(4, 5, dtype=torch.float64).add(0.1).requires_grad_()
    mask = torch.rand(2, 4, 5) < 0.7

    def f(q, weights):
        out, lse = ga.attention(q, k, v, hood, key_weights=weights, key_mask=mask, return_lse=True)
        return out, torch.where(lse.isinf(), 0.0, lse)

    assert torch.autograd.gradcheck(f, (q, weights), fast_mode=True)


def test_forward_mode_derivatives_are_refused():
    q, k, v, hood = operands()
    q, k, v = q.detach(), k.detach(), v.detach()
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative.*create_graph=True"):
        torch.func.jvp(lambda v: ga.attention(q, k, v, hood), (v,), (torch.ones_like(v),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        ga.attention(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), k, v, hood)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_that_hides_everything_gives_zero_and_zero_gradients(pattern):
    q, k, v, hood = operands(PATTERNS[pattern]())
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1] = True
    out, lse = ga.attention(q, k, v, hood, key_mask=mask, return_lse=True)
    assert (out[0] == 0).all()
    assert (lse[0] == float("-inf")).all()
    gradients = torch.autograd.grad((out, lse), (q, k, v), (torch.ones_like(out), torch.ones_like(lse)))
    for gradient in gradients:
        assert (gradient[0] == 0).all()
        assert gradient.isfinite().all()
        assert (gradient[1] != 0).any()


def test_queries_without_keys_give_zero_and_zero_gradients():
    empty = ga.from_edges(GRID, GRID, np.zeros(21, dtype=int), [])
    q, k, v, _ = operands(empty)
    out, lse = ga.attention(q, k, v, empty, return_lse=True)
    assert (out == 0).all()
    assert (lse == float("-inf")).all()
    gradients = torch.autograd.grad((out, lse), (q, k, v), (torch.ones_like(out), torch.ones_like(lse)))
    assert all((g == 0).all() for g in gradients)


def test_a_zero_weight_hides_its_key():
    q, k, v, hood = operands()
    weights = torch.ones(4, 5, dtype=torch.float64)
    weights[1, 2] = 0.0
    mask = weights > 0
    by_weight = ga.attention(q, k, v, hood, key_weights=weights.requires_grad_())
    by_mask = ga.attention(q, k, v, hood, key_weights=None, key_mask=mask)
    torch.testing.assert_close(by_weight, by_mask, rtol=0, atol=0)
    assert torch.autograd.grad(by_weight.sum(), weights)[0].isfinite().all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_empty_batch_gives_empty_results(pattern):
    q, k, v, hood = operands(PATTERNS[pattern](), batch=0)
    bias = torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)
    out, lse = ga.attention(q, k, v, hood, key_bias=bias, return_lse=True)
    assert out.shape == (0, 4, 5, 2, 4)
    assert lse.shape == (0, 4, 5, 2)
    *_, for_bias = torch.autograd.grad(out.sum(), (q, k, v, bias))
    assert (for_bias == 0).all()


def test_scale_zero_gives_the_quadrature_mean():
    q, k, v, hood = operands(ga.everything(GRID))
    field = v.movedim(-2, 1).movedim(-1, 1)
    mean = GRID.integrate(field) / (4 * np.pi)
    out, lse = ga.attention(q, k, v, hood, scale=0.0, return_lse=True)
    torch.testing.assert_close(out, mean.transpose(1, 2)[:, None, None].expand_as(out))
    torch.testing.assert_close(lse, torch.full_like(lse, np.log(4 * np.pi)))


def test_a_constant_value_field_is_reproduced():
    q, k, v, hood = operands(ga.geodesic(GRID, radius=50.0))
    out = ga.attention(q, k, torch.full_like(v, 1.5), hood)
    torch.testing.assert_close(out, torch.full_like(out, 1.5))


def test_turning_the_sphere_turns_the_output():
    grid = ga.grids.gaussian(6, 12)
    q, k, v, hood = operands(ga.geodesic(grid, radius=40.0))
    turned = ga.attention(*(x.roll(5, dims=2) for x in (q, k, v)), hood)
    torch.testing.assert_close(turned, ga.attention(q, k, v, hood).roll(5, dims=2))


def test_renumbering_the_keys_changes_nothing():
    q, k, v, hood = operands(dim_v=3)
    order = np.random.default_rng(1).permutation(20)
    place = np.argsort(order)
    indptr, indices = hood.to_csr()
    line = ga.grids.cartesian((20,))
    renumbered = ga.from_edges(GRID, line, indptr, place[indices])
    weights = torch.as_tensor(GRID.weights.reshape(-1)[order])
    k2, v2 = (x.flatten(1, 2)[:, torch.as_tensor(order)] for x in (k, v))
    out, lse = ga.attention(q, k, v, hood, return_lse=True)
    out2, lse2 = ga.attention(q, k2, v2, renumbered, key_weights=weights, return_lse=True)
    torch.testing.assert_close(out, out2)
    torch.testing.assert_close(lse, lse2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_results_and_gradients_repeat_bit_for_bit(pattern, dtype):
    grid = ga.grids.gaussian(16, 32)
    hood = ga.everything(grid) if pattern == "everything" else ga.geodesic(grid, radius=25.0)
    q, k, v, _ = operands(hood, heads=4, dtype=dtype)

    def run():
        out, lse = ga.attention(q, k, v, hood, return_lse=True)
        return out, lse, *torch.autograd.grad(out.float().square().sum() + lse.sum(), (q, k, v))

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_autocast_leaves_one_dtype_alone_and_brings_several_together():
    q, k, v, hood = operands(dtype=torch.float32)
    alone = ga.attention(q, k, v, hood)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ga.attention(q, k, v, hood)
        mixed, lse = ga.attention(q, k, v.bfloat16(), hood, return_lse=True)
    assert torch.equal(alone, inside)
    assert mixed.dtype == torch.bfloat16
    assert lse.dtype == torch.float32
    torch.testing.assert_close(mixed.float(), alone, atol=4e-2, rtol=0)


def test_the_graph_keeps_its_neighborhood_alive():
    q, k, v, hood = operands(ga.from_edges(GRID, GRID, np.arange(21), np.arange(20)[::-1]))
    out = ga.attention(q, k, v, hood)
    del hood
    gc.collect()
    assert torch.autograd.grad(out.sum(), v)[0].isfinite().all()


def test_equal_neighborhoods_keep_each_other_findable():
    def make():
        return ga.from_edges(GRID, GRID, np.arange(21), np.roll(np.arange(20), 3))

    first, second = make(), make()
    del first
    gc.collect()
    q, k, v, _ = operands(second)
    assert ga.attention(q, k, v, second).isfinite().all()


# ---------------------------------------------------------------- merge


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), parts=st.integers(1, 4))
def test_merging_a_random_split_of_the_keys_gives_the_union(seed, parts):
    q, k, v, hood = operands(seed=seed % 5)
    owner = torch.randint(parts, (4, 5), generator=torch.Generator().manual_seed(seed))
    pieces = [ga.attention(q, k, v, hood, key_mask=owner == part, return_lse=True) for part in range(parts)]
    out, lse = ga.merge(*zip(*pieces, strict=True))
    expected, expected_lse = ga.attention(q, k, v, hood, return_lse=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)
    upstream = torch.randn(out.shape, dtype=out.dtype), torch.randn(lse.shape, dtype=lse.dtype)
    for found, true in zip(
        torch.autograd.grad((out, lse), (q, k, v), upstream),
        torch.autograd.grad((expected, expected_lse), (q, k, v), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, true)


def test_merging_nothing_visible_stays_zero_without_nan():
    out = torch.zeros(3, 2, requires_grad=True)
    lse = torch.full((3,), float("-inf"), requires_grad=True)
    merged, total = ga.merge([out, out], [lse, lse])
    assert (merged == 0).all()
    assert (total == float("-inf")).all()
    gradients = torch.autograd.grad((merged, total), (out, lse), (torch.ones(3, 2), torch.ones(3)))
    assert all(g.isfinite().all() for g in gradients)


def test_merge_refuses_parts_that_do_not_fit():
    out, lse = torch.zeros(3, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"got 1 and 2.*return_lse=True"):
        ga.merge([out], [lse, lse])
    with pytest.raises(ValueError, match=r"output \(3, 2\) with an lse \(4,\)"):
        ga.merge([out], [torch.zeros(4)])


# ---------------------------------------------------------------- bad input


def bad(change, error, message):
    return pytest.param(change, error, message, id=message[:40])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        bad(
            lambda a: a.update(hood="disc"), TypeError, r"must be a neighborhood, got str.*geoattn\.geodesic"
        ),
        bad(lambda a: a.update(hood=GRID), TypeError, r"must be a neighborhood, got the equiangular grid"),
        bad(
            lambda a: a.update(q=a["q"][:, :3]), ValueError, r"q must be \[B, 4, 5, H, D\].*\(2, 3, 5, 2, 4\)"
        ),
        bad(lambda a: a.update(q=a["q"].flatten(1, 2)), ValueError, r"q must be .*got shape \(2, 20, 2, 4\)"),
        bad(lambda a: a.update(q=a["q"][0, 0, 0]), ValueError, r"q must be .*got shape \(2, 4\)"),
        bad(lambda a: a.update(v=a["v"][..., 0]), ValueError, r"v must be \[B, 4, 5, H_kv, D_v\]"),
        bad(lambda a: a.update(k=a["k"].float()), TypeError, r"one dtype, got torch.float64, torch.float32"),
        bad(
            lambda a: a.update({n: a[n].int() for n in "qkv"}),
            TypeError,
            r"floating point of 16 to 64 bits, got torch.int32",
        ),
        bad(lambda a: a.update(k=a["k"].to("meta")), ValueError, r"one device, got cpu, meta and cpu"),
        bad(lambda a: a.update(k=a["k"][:1]), ValueError, r"one batch size, got 2, 1 and 2"),
        bad(lambda a: a.update(k=a["k"][..., :3]), ValueError, r"one head dimension, got 4 and 3"),
        bad(lambda a: a.update(v=a["v"][..., :1, :]), ValueError, r"same heads, got 2 and 1"),
        bad(lambda a: a.update(v=a["v"][..., :0]), ValueError, r"at least 1, got 4 for q and k, 0 for v"),
        bad(
            lambda a: a.update(q=torch.cat([a["q"], a["q"][..., :1, :]], -2)),
            ValueError,
            r"the 3 query heads must be a positive multiple of the 2 key",
        ),
        bad(lambda a: a.update(scale=float("nan")), ValueError, r"scale must be a finite number, got nan"),
        bad(
            lambda a: a.update(key_weights="area"), ValueError, r"must be \"quadrature\", None or.*got 'area'"
        ),
        bad(lambda a: a.update(key_weights=2.0), TypeError, r"got float; make a tensor"),
        bad(lambda a: a.update(key_weights=torch.ones(5, 4)), ValueError, r"key_weights must be \[4, 5\]"),
        bad(
            lambda a: a.update(key_weights=-torch.ones(4, 5)), ValueError, r"negative or NaN.*smallest is -1"
        ),
        bad(
            lambda a: a.update(key_weights=torch.ones(4, 5).int()), TypeError, r"key_weights must be floating"
        ),
        bad(
            lambda a: a.update(key_bias=torch.ones(3, 4, 5)),
            ValueError,
            r"\[4, 5\] or \[2, 4, 5\].*\(3, 4, 5\)",
        ),
        bad(lambda a: a.update(key_bias=torch.ones(4, 5).bool()), TypeError, r"hide keys with key_mask"),
        bad(
            lambda a: a.update(key_bias=np.ones((4, 5))),
            TypeError,
            r"key_bias must be a torch tensor, got numpy",
        ),
        bad(lambda a: a.update(key_mask=torch.ones(4, 5)), TypeError, r"key_mask must be bool, True where"),
        bad(
            lambda a: a.update(key_mask=torch.ones(4, 5, device="meta").bool()),
            ValueError,
            r"is on meta but q",
        ),
        bad(
            lambda a: a.update(backend="fast"),
            ValueError,
            r"backend 'fast' is unknown; known backends: .*refer",
        ),
        bad(lambda a: a.update(backend="sdpa"), RuntimeError, r"'sdpa' cannot run this call: .*everything"),
    ],
)
def test_bad_input_is_named(change, error, message):
    q, k, v, hood = operands()
    arguments = {"q": q.detach(), "k": k.detach(), "v": v.detach(), "hood": hood}
    change(arguments)
    with pytest.raises(error, match=message):
        ga.attention(**arguments)


@pytest.mark.parametrize("backend", ["reference", "cpu", "sdpa"])
def test_a_masked_key_may_hold_nan_on_every_backend(backend):
    grid = ga.grids.gaussian(6, 12)
    hood = ga.everything(grid) if backend == "sdpa" else ga.geodesic(grid, radius=50.0)
    mask = torch.rand(2, *grid.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    q, k, v = (
        torch.randn(2, *grid.shape, 2, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)
    )
    expected = ga.attention(q, k, v, hood, key_mask=mask, backend=backend)
    k[~mask], v[~mask] = float("nan"), float("inf")
    operands = [x.requires_grad_() for x in (q, k, v)]
    out = ga.attention(*operands, hood, key_mask=mask, backend=backend)
    assert torch.equal(out, expected)
    for gradient in torch.autograd.grad(out.square().sum(), operands):
        assert gradient.isfinite().all()


def test_registers_by_merging_and_sinks_by_the_lse_are_those_of_one_softmax():
    """The two recipes of docs/patterns.md, against a dense softmax with more columns."""
    q, k, v, hood = operands(heads=3, kv_heads=3)
    registers, contents = torch.randn(2, 2, 5, 3, 4, dtype=torch.float64)
    sink = torch.randn(3, dtype=torch.float64, requires_grad=True)
    near = ga.attention(q, k, v, hood, return_lse=True)
    to_all = ga.everything(GRID, ga.grids.cartesian(5))
    far = ga.attention(q, registers, contents, to_all, key_weights=None, return_lse=True)
    out, lse = ga.merge(*zip(near, far, strict=True))
    found = out * torch.sigmoid(lse - sink)[..., None]

    indptr, indices = hood.to_csr()
    mask = torch.zeros(GRID.size, GRID.size, dtype=torch.bool)
    mask[np.repeat(np.arange(GRID.size), np.diff(indptr)), indices] = True
    keys, values = (torch.cat((x.flatten(1, 2), y), 1) for x, y in ((k, registers), (v, contents)))
    scores = torch.einsum("bihd,bjhd->bhij", q.flatten(1, 2), keys) * 0.5
    weights = torch.as_tensor(GRID.weights).reshape(-1).log()
    scores = scores + torch.nn.functional.pad(weights, (0, 5))
    scores = scores.masked_fill(~torch.nn.functional.pad(mask, (0, 5), value=True), -torch.inf)
    full = torch.cat((scores, sink[None, :, None, None].expand(2, 3, GRID.size, 1)), -1).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", full[..., :-1], values).view(found.shape)
    torch.testing.assert_close(found, expected)
    of = (q, k, v, sink)
    for x, y in zip(
        torch.autograd.grad(found.square().sum(), of),
        torch.autograd.grad(expected.square().sum(), of),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_a_softcap_is_refused_by_its_name():
    x = torch.ones(1, 4, 1, 2)
    with pytest.raises(TypeError, match="softcap"):
        ga.attention(x, x, x, ga.everything(ga.grids.cartesian(4)), softcap=30.0)
