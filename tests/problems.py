"""Problems for kernels that have no device here, and how far their results lie from others."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

import geoattn as ga
from geoattn import testing


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
    return testing.Case(hood, q, k, v, options, normal(batch, *nq, heads, dim_v).to(dtype), grad_lse)


def some_queries_see_nothing():
    rng = np.random.default_rng(5)
    seen = rng.random((90, 130)) < 0.2
    seen[rng.random(90) < 0.3] = False
    seen[7] = True
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    return ga.from_edges(ga.grids.cartesian((90,)), ga.grids.cartesian((130,)), indptr, np.nonzero(seen)[1])


def related(make, shape, options):
    """A problem with a relation and its table; ``shape`` is the table's before heads and numbers."""
    relation = make()
    case = problem(relation.hood, **options)
    table = torch.randn(*shape, case.q.shape[-2], relation.count, generator=torch.Generator().manual_seed(3))
    return dataclasses.replace(case, options=case.options | {"relation": relation, "relation_bias": table})


def results(case, backend, backward=True, scale=0.2):
    """out, lse and, going backward, the gradients of q, k and v, straight from a backend."""
    q, k, v, do, dlse = (
        x.flatten(1, -3) for x in (case.q, case.k, case.v, case.grad_out, case.grad_lse[..., None])
    )
    out, lse = backend.forward(q, k, v, None, case.hood, scale)
    if not backward:
        return out, lse
    found = backend.backward(do, dlse[..., 0], q, k, v, None, out, lse, case.hood, scale, False)
    return out, lse, found.q, found.k, found.v


def difference(found, right) -> float:
    return torch.nan_to_num(found.float() - right.float(), nan=torch.inf).abs().max().item()
