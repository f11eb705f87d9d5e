"""The operator: attention over a neighborhood."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoattn.neighborhoods.base import Neighborhood


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    *,
    scale: float | None = None,
    key_weights: str | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    """Interim dense implementation, replaced by the dispatching operator."""
    q_shape = hood.query_grid.shape
    batch, heads, head_dim = q.shape[0], q.shape[-2], q.shape[-1]
    n_q, n_k = hood.query_grid.size, hood.key_grid.size
    q = q.reshape(batch, n_q, heads, head_dim)
    k = k.reshape(batch, n_k, -1, head_dim)
    v = v.reshape(batch, n_k, k.shape[2], -1)
    k, v = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (k, v))
    score = torch.einsum("bihd,bjhd->bhij", q, k) * (head_dim**-0.5 if scale is None else scale)
    bias = torch.zeros(1, n_k, dtype=q.dtype, device=q.device)
    if isinstance(key_weights, str):
        bias = bias + torch.as_tensor(np.log(hood.key_grid.weights).reshape(-1).copy()).to(q)
    elif key_weights is not None:
        bias = bias + key_weights.reshape(1, n_k).log()
    if key_bias is not None:
        bias = bias + key_bias.reshape(-1, n_k)
    if key_mask is not None:
        bias = bias.masked_fill(~key_mask.reshape(-1, n_k), float("-inf"))
    indptr, indices = hood.to_csr()
    seen = torch.zeros(n_q, n_k, dtype=torch.bool)
    seen[
        torch.arange(n_q).repeat_interleave(torch.as_tensor(np.diff(indptr))), torch.as_tensor(indices).long()
    ] = True
    score = (score + bias[:, None, None, :]).masked_fill(~seen.to(q.device), float("-inf"))
    lse = score.logsumexp(-1)
    p = (score - lse.masked_fill(lse == float("-inf"), 0.0)[..., None]).exp()
    out = torch.einsum("bhij,bjhd->bihd", p, v).reshape(batch, *q_shape, heads, v.shape[-1])
    return (out, lse.transpose(1, 2).reshape(batch, *q_shape, heads)) if return_lse else out
