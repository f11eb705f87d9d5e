"""Attention written once more, as directly as the formula reads: dense, float64, loops over heads.

It shares no code with the library, so that both cannot be wrong in the same way: edges come as a
boolean matrix from the rows of single queries, weights and biases as numbers. It takes quadratic
memory and is slow; grids of a few hundred points are its measure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def edges(hood: Any) -> Tensor:
    """Who sees whom, ``[Nq, Nk]`` bool, straight from ``hood.rows`` of single queries."""
    seen = np.zeros((hood.query_grid.size, hood.key_grid.size), dtype=bool)
    for query in range(hood.query_grid.size):
        seen[query, hood.rows(np.array([query])).indices] = True
    return torch.as_tensor(seen)


def pair_bias(relation: Any, table: Tensor) -> Tensor:
    """The bias of each pair, ``[B or 1, H, Nq, Nk]``, edge by edge from rows of single queries; else 0.

    ``table`` is ``[B or 1, H, count]`` or ``[B, Nq, H, count]``.
    """
    hood, heads = relation.hood, table.shape[-2]
    bias = table.new_zeros(len(table), heads, hood.query_grid.size, hood.key_grid.size)
    for query in range(hood.query_grid.size):
        _, keys, numbers = relation.rows(np.array([query]))
        rows = table if table.ndim == 3 else table[:, query]
        bias[:, :, query, keys] = rows[..., torch.as_tensor(numbers).long()]
    return bias


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    *,
    scale: float | Tensor | None = None,
    weights: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    pair_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and natural-log lse in float64, differentiable.

    A key is hidden by pattern, by mask, by weight 0 or by a bias of −∞, which may be that of the pair. Rows
    without keys are 0 and −∞. Keys that no query sees may hold anything.

    Parameters
    ----------
    q, k, v
        ``[B, Nq, H, D]``, ``[B, Nk, H_kv, D]`` and ``[B, Nk, H_kv, D_v]``.
    seen
        Who sees whom, ``[Nq, Nk]`` bool: :func:`edges`.
    scale
        A number, or a tensor of one or ``[H]`` numbers; ``D ** -0.5`` unless given.
    weights, bias, mask
        ``[Nk]`` or ``[B, Nk]``.

    pair_bias
        ``[B or 1, H, Nq, Nk]``, looked at where a key is visible: :func:`pair_bias`.

    Returns
    -------
    (Tensor, Tensor)
        ``out [B, Nq, H, D_v]`` and ``lse [B, Nq, H]``.
    """
    batch, _, heads, dim = q.shape
    share = heads // k.shape[2]
    scales = torch.as_tensor(dim**-0.5 if scale is None else scale, dtype=torch.float64)
    scales = scales.reshape(-1).expand(heads)
    results = []
    for b in range(batch):
        visible = seen.clone()
        measure = torch.ones(k.shape[1], dtype=torch.float64)
        additive = torch.zeros(k.shape[1], dtype=torch.float64)
        if mask is not None:
            visible &= mask if mask.ndim == 1 else mask[b]
        if weights is not None:
            measure = (weights if weights.ndim == 1 else weights[b]).double()
            visible &= measure != 0.0
        if bias is not None:
            additive = (bias if bias.ndim == 1 else bias[b]).double()
            visible &= additive != float("-inf")
        unused = ~visible.any(0)
        measure, additive = measure.masked_fill(unused, 0.0), additive.masked_fill(unused, 0.0)
        keys = k[b].double().masked_fill(unused[:, None, None], 0.0)
        values = v[b].double().masked_fill(unused[:, None, None], 0.0)
        for h in range(heads):
            score = scales[h] * q[b, :, h].double() @ keys[:, h // share].T + additive
            if pair_bias is not None:
                score = score + pair_bias[min(b, len(pair_bias) - 1), h]
            score = score.masked_fill(~visible, float("-inf"))
            top = score.detach().amax(1)
            top = top.masked_fill(top == float("-inf"), 0.0)
            kernel = measure * (score - top[:, None]).exp()
            total = kernel.sum(1)
            empty = ~visible.any(1)
            total = total.masked_fill(empty, 1.0)
            out = kernel / total[:, None] @ values[:, h // share]
            results.append((out, (total.log() + top).masked_fill(empty, float("-inf"))))
    outs, lses = (torch.stack(parts) for parts in zip(*results, strict=True))
    outs, lses = (x.reshape(batch, heads, *x.shape[1:]) for x in (outs, lses))
    return outs.transpose(1, 2), lses.transpose(1, 2)
