"""Attention written once more, as directly as the formula reads: dense, float64, loops over heads.

It shares no code with the library: edges come as a boolean matrix, weights as numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def edges(hood) -> Tensor:
    """Who sees whom, ``[Nq, Nk]`` bool, straight from the rows of single queries."""
    seen = np.zeros((hood.query_grid.size, hood.key_grid.size), dtype=bool)
    for query in range(hood.query_grid.size):
        seen[query, hood.rows(np.array([query])).indices] = True
    return torch.as_tensor(seen)


def attention(q, k, v, seen, *, scale=None, weights=None, bias=None, mask=None):
    """out and lse in float64 from q ``[B, Nq, H, D]``, k, v ``[B, Nk, Hkv, ·]``, seen ``[Nq, Nk]``.

    weights, bias, mask are ``[Nk]`` or ``[B, Nk]``. Differentiable; rows without keys are 0 and −inf.
    """
    batch, n_queries, heads, dim = q.shape
    share = heads // k.shape[2]
    q, k, v = q.double(), k.double(), v.double()
    scale = dim**-0.5 if scale is None else scale
    outs, lses = [], []
    for b in range(batch):
        visible = seen.clone()
        if mask is not None:
            visible &= mask if mask.ndim == 1 else mask[b]
        measure = torch.ones(k.shape[1], dtype=torch.float64)
        if weights is not None:
            measure = weights.double()
        if bias is not None:
            measure = measure * (bias if bias.ndim == 1 else bias[b]).double().exp()
        for h in range(heads):
            score = scale * q[b, :, h] @ k[b, :, h // share].T
            kernel = torch.where(visible, measure * score.exp(), 0.0)
            total = kernel.sum(1)
            empty = total == 0
            share_of = kernel / torch.where(empty, 1.0, total)[:, None]
            outs.append(share_of @ v[b, :, h // share])
            lses.append(torch.where(empty, float("-inf"), torch.where(empty, 1.0, total).log()))
    out = torch.stack(outs).reshape(batch, heads, n_queries, v.shape[-1]).transpose(1, 2)
    lse = torch.stack(lses).reshape(batch, heads, n_queries).transpose(1, 2)
    return out, lse
