"""The random matrix of attention problems that every backend is held to.

``for case in cases(seed, count)`` draws problems; ``check(case, backend)`` runs one on a backend,
forward and backward, and compares with the dense float64 oracle.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import oracle
import torch
from torch import Tensor

import geoattn as ga
from geoattn.neighborhoods.base import Neighborhood

#: largest error relative to the largest true magnitude, forward and backward
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 6e-3,
    torch.bfloat16: 4e-2,
}


@dataclasses.dataclass
class Case:
    """One problem: operands ``[B, *grid, H, D]`` and the options of the call."""

    hood: Neighborhood
    q: Tensor
    k: Tensor
    v: Tensor
    options: dict[str, Any]
    grad_out: Tensor
    grad_lse: Tensor | None

    def __repr__(self) -> str:
        options = {n: tuple(x.shape) if isinstance(x, Tensor) else x for n, x in self.options.items()}
        shapes = " ".join(
            f"{n}{tuple(x.shape)}" for n, x in zip("qkv", (self.q, self.k, self.v), strict=True)
        )
        lse = "with" if self.grad_lse is not None else "without"
        return f"{shapes} {self.q.dtype} {self.hood!r} {options} {lse} lse gradient"


def random_edges(rng: np.random.Generator, query_grid: Any, key_grid: Any) -> Neighborhood:
    """Edges without any structure; some queries see nothing, some everything."""
    density = rng.choice([0.05, 0.3, 0.8])
    seen = rng.random((query_grid.size, key_grid.size)) < density
    seen[rng.random(query_grid.size) < 0.1] = False
    seen[rng.random(query_grid.size) < 0.05] = True
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    return ga.from_edges(query_grid, key_grid, indptr, np.nonzero(seen)[1])


def random_grids(rng: np.random.Generator) -> tuple[Any, Any]:
    """A query grid and a key grid, equal half of the time."""
    grids = [
        ga.grids.equiangular(9, 12),
        ga.grids.equiangular(7, 10, poles=False),
        ga.grids.gaussian(8, 16),
        ga.grids.cartesian((9, 11)),
        ga.grids.cartesian((50,), periodic=True),
        ga.grids.cartesian((3, 4, 5)),
    ]
    query_grid, key_grid = (grids[i] for i in rng.integers(len(grids), size=2))
    if rng.random() < 0.5:
        key_grid = query_grid
    return query_grid, key_grid


def random_neighborhood(rng: np.random.Generator) -> Neighborhood:
    """Planes and spheres, self and cross, every kind of pattern, at sizes that a loop can check."""
    query_grid, key_grid = random_grids(rng)
    kind = rng.integers(4)
    if kind == 0:
        return ga.everything(query_grid, key_grid)
    if kind == 1 and "lat" in dir(query_grid) and "lat" in dir(key_grid):
        return ga.geodesic(query_grid, key_grid, radius=float(rng.choice([8.0, 30.0, 75.0])))
    if kind == 2 and query_grid == key_grid:
        size = tuple(int(rng.integers(1, n + 1)) for n in query_grid.shape)
        return ga.window(query_grid, size, causal=bool(rng.random() < 0.3))
    return random_edges(rng, query_grid, key_grid)


def random_layout(rng: np.random.Generator, x: Tensor) -> Tensor:
    """The same values in other strides: contiguous, heads first, a slice of a wider tensor, or broadcast."""
    kind = rng.integers(4)
    if kind == 1:
        return x.movedim(-2, 1).contiguous().movedim(1, -2)
    if kind == 2:
        return torch.stack((x, x), dim=-1).flatten(-2)[..., ::2]
    if kind == 3:
        return x[:1].expand(x.shape)
    return x


def random_case(rng: np.random.Generator, hood: Neighborhood, dtype: torch.dtype) -> Case:
    """Operands and options for a neighborhood: batch, heads, dims, layouts, weights, bias, mask, scale."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    batch = int(rng.choice([1, 2, 3]))
    kv_heads = int(rng.choice([1, 2, 3]))
    heads = kv_heads * int(rng.choice([1, 1, 2, 4]))
    dim = int(rng.choice([1, 3, 8, 16, 20, 32, 64]))
    dim_v = dim if rng.random() < 0.6 else int(rng.choice([1, 5, 16, 24, 40]))
    nq, nk = hood.query_grid.shape, hood.key_grid.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (
        random_layout(rng, normal(*shape).to(dtype))
        for shape in ((batch, *nq, heads, dim), (batch, *nk, kv_heads, dim), (batch, *nk, kv_heads, dim_v))
    )
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["scale"] = float(rng.choice([0.0, 0.05, 0.4, -0.3]))
    if rng.random() < 0.4:
        options["key_weights"] = None if rng.random() < 0.5 else normal(*nk).exp().to(compute)
    if rng.random() < 0.4:
        options["key_bias"] = normal(*(() if rng.random() < 0.5 else (batch,)), *nk).to(compute)
    if rng.random() < 0.4:
        mask = torch.rand(batch, *nk, generator=generator) < rng.choice([0.2, 0.9])
        if rng.random() < 0.3:
            mask[0] = False
        options["key_mask"] = mask if rng.random() < 0.5 else mask[0]
    grad_out = random_layout(rng, normal(batch, *nq, heads, dim_v).to(dtype))
    grad_lse = normal(batch, *nq, heads).to(compute) if rng.random() < 0.5 else None
    return Case(hood, q, k, v, options, grad_out, grad_lse)


def cases(
    seed: int,
    count: int,
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCE),
    neighborhood: Callable[[np.random.Generator], Neighborhood] = random_neighborhood,
) -> Iterator[Case]:
    """``count`` random problems, the same for the same seed."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield random_case(rng, neighborhood(rng), dtypes[i % len(dtypes)])


def check(
    case: Case, backend: str, device: str = "cpu", tolerances: Mapping[torch.dtype, float] = TOLERANCE
) -> None:
    """Hold one backend to the oracle on one problem: out, lse and every gradient."""
    differentiable = [n for n in ("key_weights", "key_bias") if isinstance(case.options.get(n), Tensor)]
    true = _oracle(case, differentiable)
    leaves = [x.detach().to(device).requires_grad_() for x in (case.q, case.k, case.v)]
    options = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in case.options.items()}
    for name in differentiable:
        options[name] = options[name].detach().requires_grad_()
    out, lse = ga.attention(*leaves, case.hood, **options, return_lse=True, backend=backend)
    assert ga.backends.last() == backend
    assert out.dtype == case.q.dtype
    assert lse.dtype == (torch.float64 if case.q.dtype == torch.float64 else torch.float32)
    leaves += [options[name] for name in differentiable]
    outputs, upstream = [out], [case.grad_out.to(device)]
    if case.grad_lse is not None:
        outputs, upstream = [out, lse], [case.grad_out.to(device), case.grad_lse.to(device)]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    tolerance = tolerances[case.q.dtype]
    names = ["out", "lse", *(f"gradient of {n}" for n in ("q", "k", "v", *differentiable))]
    for name, found, expected in zip(names, [out, lse, *gradients], true, strict=True):
        close(name, found, expected, tolerance, case)


def close(name: str, found: Tensor, expected: Tensor, tolerance: float, what: object) -> None:
    """Same shape, same infinities, no NaN, and an error small beside the largest true value."""
    found = found.detach().double().cpu().reshape(expected.shape)
    assert not found.isnan().any(), f"{name} holds NaN: {what}"
    infinite = expected.isinf()
    assert torch.equal(found[infinite], expected[infinite]), f"{name} differs in its infinities: {what}"
    error = (found - expected)[~infinite].abs().max().item() if (~infinite).any() else 0.0
    magnitude = max(1.0, expected[~infinite].abs().max().item() if (~infinite).any() else 0.0)
    assert error <= tolerance * magnitude, (
        f"{name} is off by {error:.2e} (values up to {magnitude:.2e}, tolerance {tolerance}): {what}"
    )


def _oracle(case: Case, differentiable: list[str]) -> list[Tensor]:
    def flat(x: Tensor | None, axes: int, lead: int) -> Tensor | None:
        return None if x is None else x.flatten(lead, lead + axes - 1)

    rank_q, rank_k = len(case.hood.query_grid.shape), len(case.hood.key_grid.shape)
    leaves = [x.detach().double().requires_grad_() for x in (case.q, case.k, case.v)]
    options = dict(case.options)
    for name in differentiable:
        options[name] = options[name].detach().double().requires_grad_()
    weights = options.get("key_weights", "quadrature")
    if isinstance(weights, str):
        weights = torch.as_tensor(np.array(case.hood.key_grid.weights))
    bias, mask = options.get("key_bias"), options.get("key_mask")
    out, lse = oracle.attention(
        flat(leaves[0], rank_q, 1),
        flat(leaves[1], rank_k, 1),
        flat(leaves[2], rank_k, 1),
        oracle.edges(case.hood),
        scale=options.get("scale"),
        weights=flat(weights, rank_k, 0),
        bias=None if bias is None else flat(bias, rank_k, bias.ndim - rank_k),
        mask=None if mask is None else flat(mask, rank_k, mask.ndim - rank_k),
    )
    shape = case.q.shape[:-1]
    out, lse = out.reshape(*shape, -1), lse.reshape(shape)
    leaves += [options[name] for name in differentiable]
    outputs, upstream = [out], [case.grad_out.double()]
    if case.grad_lse is not None:
        outputs, upstream = [out, lse], [case.grad_out.double(), case.grad_lse.double()]
    # where every weight of a row is zero the oracle's own gradient is zero by construction
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    return [out.detach(), lse.detach(), *gradients]
