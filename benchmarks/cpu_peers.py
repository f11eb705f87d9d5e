"""The implementations that ``benchmarks/cpu.py`` compares.

Each is a function of (case, neighborhood, q, k, v) that prepares what does not belong to the call
and returns the call: operands ``[B, *grid, H, D]`` in, output in the same shape out. Layouts that a
peer wants instead are views wherever it takes views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import geoattn as ga
from geoattn.neighborhoods import Neighborhood

Call = Callable[[Tensor, Tensor, Tensor], Tensor]

#: most query-key pairs for which a dense mask is made
DENSE = 300_000_000


class Absent(Exception):
    """Why a peer cannot run a case."""


def ours(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    return lambda q, k, v: ga.attention(q, k, v, hood, backend="cpu")


def reference(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    if hood.query_grid.size * hood.key_grid.size > DENSE:
        raise Absent("it computes all pairs, too many here")
    return lambda q, k, v: ga.attention(q, k, v, hood, backend="reference")


def torch_harmonics(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    if case.sphere is None:
        raise Absent("it has discs on lat-lon grids only")
    from torch_harmonics import NeighborhoodAttentionS2

    queries, keys, kind, radius = case.sphere
    channels = case.heads * case.dim
    module = NeighborhoodAttentionS2(
        channels,
        keys,
        queries,
        grid_in=kind,
        grid_out=kind,
        num_heads=case.heads,
        theta_cutoff=math.radians(radius * (1 + 1e-9)) / 1.001,  # it sees keys up to 1.001 times this
        optimized_kernel=True,
    )
    if not module.optimized_kernel:
        raise Absent("its optimized kernels are not built")

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = module.attention_handle(
            k.flatten(-2),
            v.flatten(-2),
            q.flatten(-2) * case.dim**-0.5,
            module.quad_weights,
            module.psi_col_idx,
            module.psi_roff_idx,
            module.psi_seg,
            module.psi_seg_off,
            case.heads,
            keys[1],
            *queries,
        )
        return out.unflatten(-1, (case.heads, case.dim))

    return call


def _visible(hood: Neighborhood) -> Tensor:
    if hood.query_grid.size * hood.key_grid.size > DENSE:
        raise Absent("a mask of all pairs would be too large")
    seen = np.zeros((hood.query_grid.size, hood.key_grid.size), dtype=bool)
    indptr, indices = hood.to_csr()
    seen[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), indices] = True
    return torch.as_tensor(seen)


def _log_weights(hood: Neighborhood) -> Tensor:
    return torch.as_tensor(np.log(np.asarray(hood.key_grid.weights)).reshape(-1)).float()


def _heads_first(x: Tensor) -> Tensor:
    return x.flatten(1, -3).transpose(1, 2)


def dense(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    bias = torch.where(_visible(hood), _log_weights(hood), float("-inf"))

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(
            *(_heads_first(x) for x in (q, k, v)), attn_mask=bias
        )
        return out.transpose(1, 2).reshape(*q.shape)

    return call


def flex(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    seen, weights = _visible(hood), _log_weights(hood)
    blocks = create_block_mask(
        lambda b, h, i, j: seen[i, j], None, None, *seen.shape, device="cpu", BLOCK_SIZE=128
    )
    torch.compiler.reset()  # else a second shape is compiled for any shape, which is slower
    compiled = torch.compile(flex_attention, dynamic=False)

    def add_weight(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + weights[j]

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = compiled(*(_heads_first(x) for x in (q, k, v)), score_mod=add_weight, block_mask=blocks)
        return out.transpose(1, 2).reshape(*q.shape)

    return call


def natten(case: Any, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> Call:
    if case.window is None:
        raise Absent("it has windows on planes only")
    if hood.query_grid.size**2 > DENSE:
        raise Absent("on a CPU it holds the scores of all pairs, too many here")
    import natten

    call = {1: natten.na1d, 2: natten.na2d, 3: natten.na3d}[len(case.window)]
    return lambda q, k, v: call(q, k, v, kernel_size=case.window, backend="flex-fna")


#: peers without a backward pass on a CPU, and who says so
FORWARD_ONLY = {
    "FlexAttention": "torch: FlexAttention does not support backward on CPU",
    "NATTEN": "its CPU backend is FlexAttention, which does not support backward on CPU",
}

#: packages of the peers that are not torch's
PACKAGES = ("torch-harmonics", "natten")

ALL: dict[str, Callable[..., Call]] = {
    "geoattn": ours,
    "torch-harmonics": torch_harmonics,
    "dense SDPA": dense,
    "FlexAttention": flex,
    "NATTEN": natten,
    "reference": reference,
}
