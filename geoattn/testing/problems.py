"""The random matrix of attention problems that every backend is held to.

``for case in cases(seed, count)`` draws problems; ``check(case, backend)`` runs one on a backend,
forward and backward, and compares with the dense float64 oracle; ``check_backend(name)`` does both.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoattn import backends, grids
from geoattn.functional import attention
from geoattn.neighborhoods import Neighborhood, everything, from_edges, geodesic, window
from geoattn.relations import Relation, edges, labels
from geoattn.testing import oracle

#: largest error relative to the largest true magnitude, forward and backward
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 2e-5,
    torch.float16: 6e-3,
    torch.bfloat16: 4e-2,
}

#: options that may be tensors with a gradient
_DIFFERENTIABLE = ("scale", "key_weights", "key_bias", "relation_bias")


@dataclasses.dataclass
class Case:
    """One problem: operands ``[B, *grid, H, D]`` and the options of the call.

    Examples
    --------
    >>> case = next(ga.testing.cases(seed=0, count=1))
    >>> case.q.ndim == len(case.hood.query_grid.shape) + 3
    True
    """

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
    """Edges without any structure; some queries see nothing, some everything.

    Examples
    --------
    >>> line = ga.grids.cartesian(4)
    >>> ga.testing.random_edges(np.random.default_rng(0), line, line).counts.shape
    (4,)
    """
    density = rng.choice([0.05, 0.3, 0.8])
    seen = rng.random((query_grid.size, key_grid.size)) < density
    seen[rng.random(query_grid.size) < 0.1] = False
    seen[rng.random(query_grid.size) < 0.05] = True
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    return from_edges(query_grid, key_grid, indptr, np.nonzero(seen)[1])


def random_grids(rng: np.random.Generator) -> tuple[Any, Any]:
    """A query grid and a key grid, equal half of the time.

    Examples
    --------
    >>> len(ga.testing.random_grids(np.random.default_rng(0)))
    2
    """
    choice = [
        grids.equiangular(9, 12),
        grids.equiangular(7, 10, poles=False),
        grids.gaussian(8, 16),
        grids.cartesian((9, 11)),
        grids.cartesian((50,), periodic=True),
        grids.cartesian((3, 4, 5)),
    ]
    query_grid, key_grid = (choice[i] for i in rng.integers(len(choice), size=2))
    if rng.random() < 0.5:
        key_grid = query_grid
    return query_grid, key_grid


def random_neighborhood(rng: np.random.Generator) -> Neighborhood:
    """Planes and spheres, self and cross, every kind of pattern, at sizes that a loop can check.

    Examples
    --------
    >>> hood = ga.testing.random_neighborhood(np.random.default_rng(0))
    >>> isinstance(hood, ga.neighborhoods.Neighborhood)
    True
    """
    query_grid, key_grid = random_grids(rng)
    kind = rng.integers(4)
    if kind == 0:
        return everything(query_grid, key_grid)
    if kind == 1 and "lat" in dir(query_grid) and "lat" in dir(key_grid):
        return geodesic(query_grid, key_grid, radius=float(rng.choice([8.0, 30.0, 75.0])))
    if kind == 2 and query_grid == key_grid:
        size = tuple(int(rng.integers(1, n + 1)) for n in query_grid.shape)
        return window(query_grid, size, causal=bool(rng.random() < 0.3))
    planes = [grid for grid in (query_grid, key_grid) if isinstance(grid, grids.Cartesian)]
    if kind == 2 and planes and len(query_grid.shape) == len(key_grid.shape):
        size = tuple(int(rng.integers(1, n + 1)) for n in key_grid.shape)
        origin = tuple(int(rng.integers(-2, 5)) for _ in size)
        return window(query_grid, size, boundary="clip", key_grid=key_grid, origin=origin, periodic=False)
    return random_edges(rng, query_grid, key_grid)


def random_layout(rng: np.random.Generator, x: Tensor) -> Tensor:
    """The same values in other strides: contiguous, heads first, a slice of a wider tensor, or broadcast.

    Examples
    --------
    >>> x = torch.randn(2, 3, 2, 4)
    >>> torch.equal(ga.testing.random_layout(np.random.default_rng(0), x).flatten()[:24], x.flatten()[:24])
    True
    """
    kind = rng.integers(4)
    if kind == 1:
        return x.movedim(-2, 1).contiguous().movedim(1, -2)
    if kind == 2:
        return torch.stack((x, x), dim=-1).flatten(-2)[..., ::2]
    if kind == 3:
        return x[:1].expand(x.shape)
    return x


def random_relation(rng: np.random.Generator, hood: Neighborhood) -> Relation:
    """Numbers on the edges of a neighborhood: any, or each edge its own."""
    if rng.random() < 0.2:
        return edges(hood)
    return labels(hood, rng.integers(int(rng.choice([1, 5, 60])), size=int(hood.counts.sum())))


def random_case(
    rng: np.random.Generator, hood: Neighborhood, dtype: torch.dtype, relations: float = 0.0
) -> Case:
    """Operands and options for a neighborhood: batch, heads, dims, layouts, weights, bias, mask, scale.

    ``relations`` is the share of problems that add a bias for every pair.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> case = ga.testing.random_case(rng, ga.everything(ga.grids.cartesian(4)), torch.float32)
    >>> case.q.dtype
    torch.float32
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    batch = int(rng.choice([1, 2, 3]))
    kv_heads = int(rng.choice([1, 2, 3]))
    heads = kv_heads * int(rng.choice([1, 1, 2, 4]))
    dim = int(rng.choice([1, 3, 8, 16, 20, 32, 64]))
    dim_v = dim if rng.random() < 0.6 else int(rng.choice([1, 5, 16, 24, 40]))
    nq, nk = hood.query_grid.shape, hood.key_grid.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = (
        random_layout(rng, normal(*shape).to(dtype))
        for shape in ((batch, *nq, heads, dim), (batch, *nk, kv_heads, dim), (batch, *nk, kv_heads, dim_v))
    )
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["scale"] = float(rng.choice([0.0, 0.05, 0.4, -0.3]))
        if rng.random() < 0.4:
            each = () if rng.random() < 0.5 else (heads,)
            options["scale"] = (options["scale"] * normal(*each)).to(compute)
    if rng.random() < 0.4:
        options["key_weights"] = None if rng.random() < 0.5 else normal(*nk).exp().to(compute)
    if rng.random() < 0.4:
        options["key_bias"] = normal(*(() if rng.random() < 0.5 else (batch,)), *nk).to(compute)
    if rng.random() < 0.4:
        mask = torch.rand(batch, *nk, generator=generator) < rng.choice([0.2, 0.9])
        if rng.random() < 0.3:
            mask[0] = False
        options["key_mask"] = mask if rng.random() < 0.5 else mask[0]
    if rng.random() < relations:
        options["relation"] = random_relation(rng, hood)
        shape = ((), (batch,), (batch, *nq))[rng.integers(3)]
        options["relation_bias"] = normal(*shape, heads, options["relation"].count).to(compute)
    grad_out = random_layout(rng, normal(batch, *nq, heads, dim_v).to(dtype))
    grad_lse = normal(batch, *nq, heads).to(compute) if rng.random() < 0.5 else None
    return Case(hood, q, k, v, options, grad_out, grad_lse)


def cases(
    seed: int,
    count: int,
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCE),
    neighborhood: Callable[[np.random.Generator], Neighborhood] = random_neighborhood,
    relations: float = 0.0,
) -> Iterator[Case]:
    """``count`` random problems on the CPU, the same for the same arguments.

    Parameters
    ----------
    seed
        Of all that is drawn.
    count
        How many problems.
    dtypes
        Of q, k and v, dealt out in turn.
    neighborhood
        Draws the pattern, for instance ``lambda rng: geoattn.everything(*testing.random_grids(rng))``
        for a backend that is for global attention only.
    relations
        Share of the problems that add a bias for every pair.

    Examples
    --------
    >>> len(list(ga.testing.cases(seed=0, count=3)))
    3
    """
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield random_case(rng, neighborhood(rng), dtypes[i % len(dtypes)], relations)


def refusal(case: Case, backend: str, device: str = "cpu") -> str | None:
    """Why the named backend cannot run this problem on that device, or None: ``backends.refusal``.

    Examples
    --------
    >>> case = next(ga.testing.cases(seed=0, count=1))
    >>> ga.testing.refusal(case, "reference") is None
    True
    """
    q, k, v = (x.to(device).flatten(1, -3) for x in (case.q, case.k, case.v))
    return backends.refusal(backend, q, k, v, case.hood, case.options.get("relation"))


def check(
    case: Case, backend: str, device: str = "cpu", tolerances: Mapping[torch.dtype, float] = TOLERANCE
) -> None:
    """Hold one backend to the oracle on one problem: out, lse and every gradient.

    Parameters
    ----------
    case
        One of :func:`cases`, or made by hand.
    backend
        A name in ``geoattn.backends()``.
    device
        Where to run; the operands are moved there.
    tolerances
        dtype → largest error beside the largest true magnitude, where that is above 1.

    Raises
    ------
    AssertionError
        If anything is off; the message names what, by how much, and the problem.
    RuntimeError
        If the backend refuses the problem; :func:`refusal` asks beforehand.

    Examples
    --------
    >>> ga.testing.check(next(ga.testing.cases(seed=0, count=1)), "reference")
    """
    differentiable = [n for n in _DIFFERENTIABLE if isinstance(case.options.get(n), Tensor)]
    true = _oracle(case, differentiable)
    leaves = [x.detach().to(device).requires_grad_() for x in (case.q, case.k, case.v)]
    options: dict[str, Any] = {
        n: x.to(device) if isinstance(x, Tensor) else x for n, x in case.options.items()
    }
    for name in differentiable:
        options[name] = options[name].detach().requires_grad_()
    q, k, v = leaves
    out, lse = attention(q, k, v, case.hood, **options, return_lse=True, backend=backend)
    ran, lse_dtype = backends.last(), torch.float64 if case.q.dtype == torch.float64 else torch.float32
    _hold(ran == backend, f"backend {ran!r} ran in place of {backend!r}: {case!r}")
    _hold(out.dtype == case.q.dtype, f"out is {out.dtype}, q {case.q.dtype}: {case!r}")
    _hold(lse.dtype == lse_dtype, f"lse is {lse.dtype}, not {lse_dtype}: {case!r}")
    leaves += [options[name] for name in differentiable]
    outputs, upstream = [out], [case.grad_out.to(device)]
    if case.grad_lse is not None:
        outputs, upstream = [out, lse], [case.grad_out.to(device), case.grad_lse.to(device)]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    tolerance = tolerances[case.q.dtype]
    names = ["out", "lse", *(f"gradient of {n}" for n in ("q", "k", "v", *differentiable))]
    for name, found, expected in zip(names, [out, lse, *gradients], true, strict=True):
        # these sum what was rounded for each query or edge, whose errors add up as of a walk
        terms = 1
        if name == "gradient of scale":
            terms = case.q.shape[:-1].numel() // found.numel()
        elif name == "gradient of relation_bias":
            edge_count = int(case.hood.counts.sum()) * case.q.shape[0] * case.q.shape[-2]
            terms = max(1, edge_count // found.numel())
        close(name, found, expected, tolerance * terms**0.5, case)


@dataclasses.dataclass
class Summary:
    """What :func:`check_backend` did: how many problems ran, and how often each reason was given not to.

    Examples
    --------
    >>> print(ga.testing.check_backend("reference", count=2))
    backend 'reference': 2 problems agree with the oracle
    """

    backend: str
    ran: int = 0
    refused: Counter[str] = dataclasses.field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"backend {self.backend!r}: {self.ran} problems agree with the oracle"]
        return "\n".join(lines + [f"  refused {n}: {reason}" for reason, n in self.refused.most_common()])


def check_backend(
    backend: str,
    count: int = 24,
    seed: int = 0,
    device: str = "cpu",
    dtypes: tuple[torch.dtype, ...] = tuple(TOLERANCE),
    neighborhood: Callable[[np.random.Generator], Neighborhood] = random_neighborhood,
    tolerances: Mapping[torch.dtype, float] = TOLERANCE,
    relations: float = 0.0,
) -> Summary:
    """:func:`check` a backend on ``count`` random :func:`cases`, but for those that it refuses.

    ``relations`` is the share of problems that add a bias for every pair.

    Raises
    ------
    AssertionError
        If a problem is off, or if the backend refuses all of them: then nothing was tested.

    Examples
    --------
    >>> ga.testing.check_backend("reference", count=2).ran
    2
    """
    summary = Summary(backend)
    for case in cases(seed, count, dtypes, neighborhood, relations):
        reason = refusal(case, backend, device)
        if reason is None:
            check(case, backend, device, tolerances)
            summary.ran += 1
        else:
            summary.refused[reason] += 1
    _hold(summary.ran > 0, f"no problem was tested; {summary}")
    return summary


def close(name: str, found: Tensor, expected: Tensor, tolerance: float, what: object) -> None:
    """Same shape, same infinities, no NaN, and an error small beside the largest true value.

    Examples
    --------
    >>> ga.testing.close("out", torch.ones(2), torch.ones(2), 1e-6, "two ones")
    """
    _hold(found.numel() == expected.numel(), f"{name} has shape {tuple(found.shape)}: {what}")
    found = found.detach().double().cpu().reshape(expected.shape)
    _hold(not found.isnan().any(), f"{name} holds NaN: {what}")
    infinite = expected.isinf()
    _hold(torch.equal(found[infinite], expected[infinite]), f"{name} differs in its infinities: {what}")
    error = (found - expected)[~infinite].abs().max().item() if (~infinite).any() else 0.0
    magnitude = max(1.0, expected[~infinite].abs().max().item() if (~infinite).any() else 0.0)
    _hold(
        error <= tolerance * magnitude,
        f"{name} is off by {error:.2e} (values up to {magnitude:.2e}, tolerance {tolerance}): {what}",
    )


def _hold(condition: Any, message: str) -> None:
    """An assertion that ``python -O`` keeps."""
    if not condition:
        raise AssertionError(message)


def _oracle(case: Case, differentiable: list[str]) -> list[Tensor]:
    """What :func:`check` must find: out, lse and gradients, in float64."""
    rank_k = len(case.hood.key_grid.shape)
    relation, pair_bias = case.options.get("relation"), None
    leaves = [x.detach().double().requires_grad_() for x in (case.q, case.k, case.v)]
    q, k, v = (x.flatten(1, -3) for x in leaves)
    options = dict(case.options)
    for name in differentiable:
        options[name] = options[name].detach().double().requires_grad_()
        leaves.append(options[name])
    if isinstance(options.get("key_weights", "quadrature"), str):
        options["key_weights"] = torch.as_tensor(np.array(case.hood.key_grid.weights))
    per_key = {
        name: None if (x := options.get(f"key_{name}")) is None else x.flatten(x.ndim - rank_k)
        for name in ("weights", "bias", "mask")
    }
    if relation is not None:
        table = options["relation_bias"]
        table = table[None] if table.ndim == 2 else table if table.ndim == 3 else table.flatten(1, -3)
        pair_bias = oracle.pair_bias(relation, table)
    seen, scale = oracle.edges(case.hood), options.get("scale")
    out, lse = oracle.attention(q, k, v, seen, scale=scale, **per_key, pair_bias=pair_bias)
    shape = case.q.shape[:-1]
    out, lse = out.reshape(*shape, -1), lse.reshape(shape)
    outputs, upstream = [out], [case.grad_out.double()]
    if case.grad_lse is not None:
        outputs, upstream = [out, lse], [case.grad_out.double(), case.grad_lse.double()]
    gradients = torch.autograd.grad(outputs, leaves, upstream)
    return [out.detach(), lse.detach(), *gradients]
