"""A backend: all pairs at once, in plain torch, for small problems."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geoattn.backends import Forward, Gradients
from geoattn.neighborhoods import Neighborhood


class Dense:
    """One matrix of scores for all heads."""

    name = "dense"
    #: where backend=None tries it, and ahead of whom
    devices = ("cpu",)
    before = "cpu"

    def unavailable(self) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        pairs = hood.query_grid.size * hood.key_grid.size
        return f"{pairs} pairs are more than it takes at once" if pairs > 2**16 else None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
    ) -> Forward:
        scores = _scores(q, k, key_bias, hood, scale)
        lse = scores.logsumexp(-1)
        out = torch.einsum("bhqk,bkhd->bqhd", _shares(scores, lse), _wide(v, q))
        return Forward(out.to(q.dtype), lse.transpose(1, 2))

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
    ) -> Gradients:
        # an operator runs below torch's autograd, so that derivatives are written out
        shares = _shares(_scores(q, k, key_bias, hood, scale), lse.transpose(1, 2))
        upstream = grad_out.to(lse.dtype)
        inner = (upstream * out).sum(-1)
        if grad_lse is not None:
            inner = inner - grad_lse
        slopes = shares * (
            torch.einsum("bqhd,bkhd->bhqk", upstream, _wide(v, q)) - inner.transpose(1, 2)[..., None]
        )
        scaled = _factor(scale) * slopes
        dq = torch.einsum("bhqk,bkhd->bqhd", scaled, _wide(k, q))
        dk = torch.einsum("bhqk,bqhd->bkhd", scaled, q.to(lse.dtype))
        dv = torch.einsum("bhqk,bqhd->bkhd", shares, upstream)
        db = None
        if needs_key_bias:
            db = slopes.sum((1, 2))
            db = db.sum(0, keepdim=True) if len(key_bias) == 1 else db
        ds = None
        if needs_scale:
            ds = (slopes * _products(q, k)).sum((2, 3))
            ds = ds.sum(0, keepdim=True) if len(scale) == 1 else ds
        kv_heads = (k.shape[2], -1)
        dk, dv = (x.unflatten(2, kv_heads).sum(3).to(q.dtype) for x in (dk, dv))
        return Gradients(dq.to(q.dtype), dk, dv, db, ds)


def _wide(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values for every query head, in the precision of the sums."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return x.to(dtype).repeat_interleave(q.shape[2] // x.shape[2], 2)


def _products(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bqhd,bkhd->bhqk", _wide(q, q), _wide(k, q))


def _factor(scale: float | Tensor) -> float | Tensor:
    """A number, or ``[B or 1, H]`` beside the scores."""
    return scale[..., None, None] if isinstance(scale, Tensor) else scale


def _scores(
    q: Tensor, k: Tensor, key_bias: Tensor | None, hood: Neighborhood, scale: float | Tensor
) -> Tensor:
    """``[B, H, Nq, Nk]``, −∞ where a key is hidden."""
    scores = _factor(scale) * _products(q, k)
    if key_bias is not None:
        scores = scores + key_bias[:, None, None]
    seen = np.zeros((hood.query_grid.size, hood.key_grid.size), dtype=bool)
    for query in range(len(seen)):
        seen[query, hood.rows(np.array([query])).indices] = True
    return scores.masked_fill(~torch.from_numpy(seen), float("-inf"))


def _shares(scores: Tensor, lse: Tensor) -> Tensor:
    """What each key has in each query's output; zeros where a query sees no key."""
    return (scores - lse[..., None]).exp().masked_fill((lse == float("-inf"))[..., None], 0.0)
