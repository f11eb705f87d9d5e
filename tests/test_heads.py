"""Other neighborhoods for other heads, in one call."""

import numpy as np
import pytest
import torch

import geoattn as ga

GRID = ga.grids.equiangular(6, 8)
PARTS = (ga.geodesic(GRID, radius=50.0), ga.window(GRID, (1, 5)), ga.everything(GRID))
HOOD = ga.heads(*PARTS)


def operands(heads, kv_heads, dtype=torch.float64):
    torch.manual_seed(0)
    sizes = [(2, *GRID.shape, heads, 4), (2, *GRID.shape, kv_heads, 4), (2, *GRID.shape, kv_heads, 3)]
    return [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]


def dense(q, k, v, scales, bias):
    """Out and lse of query heads in groups, each over all keys with the mask of its own neighborhood."""
    outs, lses = [], []
    heads, kv_heads = q.shape[-2], k.shape[-2]
    q, k, v = (x.flatten(1, 2) for x in (q, k, v))
    added = torch.as_tensor(np.log(GRID.weights)).reshape(-1) + bias.reshape(-1)
    for h in range(heads):
        part, g = PARTS[h * len(PARTS) // heads], h * kv_heads // heads
        indptr, indices = part.to_csr()
        mask = torch.zeros(GRID.size, GRID.size, dtype=torch.bool)
        mask[np.repeat(np.arange(GRID.size), np.diff(indptr)), indices] = True
        scores = (q[:, :, h] @ k[:, :, g].mT * scales[h] + added).masked_fill(~mask, -torch.inf)
        outs.append(scores.softmax(-1) @ v[:, :, g])
        lses.append(scores.logsumexp(-1))
    shape = (2, *GRID.shape)
    return torch.stack(outs, -2).view(*shape, heads, -1), torch.stack(lses, -1).view(*shape, heads)


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 3), (12, 6)])
def test_each_group_of_heads_attends_over_its_own_neighborhood(heads, kv_heads):
    scale = torch.rand(heads, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(GRID.shape, dtype=torch.float64, requires_grad=True)
    inputs = [*operands(heads, kv_heads), scale, bias]
    found = ga.attention(*inputs[:3], HOOD, scale=scale, key_bias=bias, return_lse=True)
    expected = dense(*inputs)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)
    gradients = [
        torch.autograd.grad(
            sum((x * torch.arange(x.numel()).cos().view(x.shape)).sum() for x in results), inputs
        )
        for results in (found, expected)
    ]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


def test_one_scale_and_masks_are_for_all_heads():
    q, k, v = operands(3, 3)
    mask = torch.as_tensor(GRID.lat > -50)
    out = ga.attention(q, k, v, HOOD, scale=torch.tensor(0.3), key_mask=mask)
    for h, part in enumerate(PARTS):
        alone = ga.attention(*(x[..., h : h + 1, :] for x in (q, k, v)), part, scale=0.3, key_mask=mask)
        torch.testing.assert_close(out[..., h : h + 1, :], alone)
    same = ga.attention(q, k, v, HOOD.without_keys(GRID.lat <= -50), scale=0.3)
    torch.testing.assert_close(out, same)


def test_it_is_a_neighborhood_by_part():
    assert HOOD.counts.shape == (3, *GRID.shape)
    assert all(np.array_equal(HOOD.counts[i], part.counts) for i, part in enumerate(PARTS))
    onward = ga.window(GRID, (3, 3), stride=(3, 1), causal=(True, False))
    turned = ga.heads(onward, PARTS[0]).transpose()
    assert turned.parts == (onward.transpose(), PARTS[0].transpose())
    assert turned.transpose() == ga.heads(onward, PARTS[0])
    assert HOOD.without_keys(GRID.lat > 0).parts == tuple(p.without_keys(GRID.lat > 0) for p in PARTS)
    assert ga.heads(*PARTS) == HOOD != ga.heads(*PARTS[::-1])
    assert ga.heads(PARTS[0], PARTS[0]) == PARTS[0]
    assert ga.heads(PARTS[0], PARTS[0], PARTS[1]).counts.shape[0] == 3


def test_modules_and_compiled_programs_take_it():
    layer = ga.nn.Attention(12, 6, HOOD)
    x = torch.randn(2, *GRID.shape, 12)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    layer(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_what_has_no_meaning_for_all_heads_is_refused_by_what_names_the_parts(refused_by):
    q, k, v = operands(3, 3)
    for call in (HOOD.to_csr, lambda: ga.plans.plan(HOOD)):
        with refused_by("neighborhoods/heads.py", "has other edges for other heads") as said:
            call()
        assert said.run("hood.parts[0]", hood=HOOD).to_csr() is not None
    with refused_by("functional.py", "runs part by part, and backends may differ") as said:
        ga.explain(q, k, v, HOOD)
    assert said.run("explain(", q=q, k=k, v=v, hood=HOOD).chosen


def test_heads_that_do_not_divide_are_refused(refused_by):
    q, k, v = operands(6, 2)
    with refused_by(
        "operands.py", "the {kv_heads} key and value heads must be a multiple of the {n}"
    ) as said:
        ga.attention(q, k, v, HOOD)
    k3, v3 = said.run("k.repeat_interleave(", k=k), said.run("v.repeat_interleave(", v=v)
    out = ga.attention(q, k3, v3, HOOD)
    torch.testing.assert_close(out[..., 3, :], ga.attention(q, k, v, PARTS[1])[..., 3, :])
    with pytest.raises(ValueError, match="3 does not divide the 4 query heads either"):
        ga.attention(*operands(4, 2), HOOD)


def test_impossible_heads_are_refused(refused_by):
    with refused_by("neighborhoods/heads.py", "each group of heads has one neighborhood") as said:
        ga.heads(HOOD, PARTS[0])
    assert said.run("heads(*hood.parts)", hood=HOOD) == HOOD
    with refused_by("neighborhoods/heads.py", "each group of heads has one neighborhood") as said:
        ga.heads(GRID)
    assert ga.heads(said.run("window(grid, size)", grid=GRID, size=3), PARTS[0]).counts.shape[0] == 2
    with pytest.raises(ValueError, match="all heads attend on one pair of grids"):
        ga.heads(PARTS[0], ga.everything(GRID, ga.grids.healpix(1)))
    with pytest.raises(ValueError, match="at least one"):
        ga.heads()
