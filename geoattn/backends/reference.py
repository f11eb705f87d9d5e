"""The reference: plain torch on any device and in any floating dtype. It is the specification.

It computes on dense chunks (:mod:`geoattn.backends.chunks`). Half precision inputs are computed in
float32, float64 in float64.

What is not a number reaches the queries that see it, and no others: except by way of ``v``, ``grad_out``
and the gradients, where it may spread to the queries of the same chunk, 64 neighbors at most, and to
the keys that these see.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs, accumulation_dtype
from geoattn.backends.chunks import (
    add_by_number,
    attend,
    bias_of_pairs,
    gather,
    gather_gradients,
    of_heads,
    score_gradient,
    scores,
    ungroup,
    work,
)
from geoattn.neighborhoods.base import Neighborhood


class Reference:
    """Chunks of queries against the union of their keys, with dense masks."""

    name = "reference"
    knows_relations = True

    def unavailable(self) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        return None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
        pairs: Pairs | None = None,
    ) -> Forward:
        batch, tokens, heads, _ = q.shape
        dtype = accumulation_dtype(q.dtype)
        out = q.new_zeros(batch, tokens, heads, v.shape[-1])
        lse = q.new_full((batch, tokens, heads), float("-inf"), dtype=dtype)
        for chunk, part in work(hood, q, pairs):
            n = chunk.queries
            q_chunk, k_chunk, v_chunk, bias_chunk = gather(chunk, q[part], k[part], v[part], key_bias, part)
            factor = of_heads(scale, part, k.shape[2])
            pair_bias = bias_of_pairs(pairs, chunk, part, k.shape[2])
            out_chunk, lse_chunk = attend(
                q_chunk, k_chunk, v_chunk, bias_chunk, chunk.hidden, factor, pair_bias
            )
            out[part].index_copy_(1, n, ungroup(out_chunk).to(out.dtype))
            lse[part].index_copy_(1, n, ungroup(lse_chunk.unsqueeze(-1)).squeeze(-1))
        return Forward(out, lse)

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        out: Tensor,
        lse: Tensor,
        hood: Neighborhood,
        scale: float | Tensor,
        needs_key_bias: bool,
        needs_scale: bool = False,
        pairs: Pairs | None = None,
        needs_table: bool = False,
    ) -> Gradients:
        dtype, kv_heads = accumulation_dtype(q.dtype), k.shape[2]
        dq, dk, dv = (x.new_zeros(x.shape, dtype=dtype) for x in (q, k, v))
        db = torch.zeros_like(key_bias) if needs_key_bias and key_bias is not None else None
        dscale = torch.zeros_like(scale) if needs_scale and isinstance(scale, Tensor) else None
        dtable = torch.zeros_like(pairs.table) if needs_table and pairs is not None else None
        for chunk, part in work(hood, q, pairs):
            n, m = chunk.queries, chunk.keys
            q_chunk, k_chunk, v_chunk, bias_chunk = gather(chunk, q[part], k[part], v[part], key_bias, part)
            do_chunk, dlse = gather_gradients(chunk, grad_out, grad_lse, part, kv_heads)
            factor = of_heads(scale, part, kv_heads)
            pair_bias = bias_of_pairs(pairs, chunk, part, kv_heads)
            score = scores(q_chunk, k_chunk, bias_chunk, chunk.hidden, factor, pair_bias)
            p, ds = score_gradient(score, v_chunk, do_chunk, dlse)
            # keys of one chunk are distinct: every sum has one fixed order
            unscaled = ds @ k_chunk.unsqueeze(2)
            dq[part].index_copy_(1, n, ungroup(unscaled * factor))
            q_scaled = (q_chunk * factor).flatten(2, 3)
            dk[part].index_add_(1, m, (ds.flatten(2, 3).mT @ q_scaled).transpose(1, 2))
            dv[part].index_add_(1, m, (p.flatten(2, 3).mT @ do_chunk.flatten(2, 3)).transpose(1, 2))
            if db is not None:
                d_bias = ds.sum((1, 2, 3))
                rows = db if db.shape[0] == 1 else db[part]
                rows.index_add_(1, m, d_bias.sum(0, keepdim=True) if db.shape[0] == 1 else d_bias)
            if dscale is not None:
                each = (unscaled * q_chunk).sum((-2, -1)).flatten(1)
                rows = dscale if dscale.shape[0] == 1 else dscale[part]
                rows += each.sum(0, keepdim=True) if dscale.shape[0] == 1 else each
            if dtable is not None:
                add_by_number(dtable, ds, chunk, part)
        return Gradients(dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), db, dscale, dtable)
