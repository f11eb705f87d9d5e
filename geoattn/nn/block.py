"""A pre-norm transformer block."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from geoattn.grids.checks import integer, positive, real
from geoattn.neighborhoods import Neighborhood
from geoattn.nn.attention import Attention, AttentionOptions


class LayerScale(nn.Module):
    """A learned factor per channel, small at first (Touvron et al. 2021)."""

    tokenwise = True

    def __init__(
        self,
        dim: int,
        start: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dim, start = integer("dim", dim), real("start", start)
        positive(dim=dim)
        self.factor = nn.Parameter(torch.full((dim,), start, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Parameters
    ----------
    dim, num_heads, hood
        As for :class:`Attention`.
    mlp_ratio
        Hidden channels of the MLP per channel.
    layer_scale
        Start value of a learned factor per channel on both branches; ``None`` for none.
    dropout
        Applied to the result of both branches.
    **attention
        Further arguments of :class:`Attention`: ``num_kv_heads``, ``head_dim``, ``qk_norm``, ``bias``,
        ``position``, ``scale``, ``key_weights``, ``device``, ``dtype``.
    """

    tokenwise = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hood: Neighborhood,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        super().__init__()
        dim, device, dtype = integer("dim", dim), attention.get("device"), attention.get("dtype")
        positive(dim=dim)
        ratio = real("mlp_ratio", mlp_ratio)
        hidden = round(dim * ratio) if math.isfinite(ratio) else 0
        if hidden < 1:
            raise ValueError(f"mlp_ratio {mlp_ratio!r} leaves no hidden channel of {dim}")

        def scaled() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale, device, dtype)

        self.attention_norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.attention = Attention(dim, num_heads, hood, dropout=dropout, **attention)
        self.attention_scale = scaled()
        self.mlp_norm = nn.LayerNorm(dim, device=device, dtype=dtype)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden, device=device, dtype=dtype),
            nn.GELU(),
            nn.Linear(hidden, dim, device=device, dtype=dtype),
            nn.Dropout(dropout),
        )
        self.mlp_scale = scaled()

    def forward(self, x: Tensor, key_mask: Tensor | None = None, key_bias: Tensor | None = None) -> Tensor:
        """``[B, *grid.shape, dim]`` to the same."""
        attended = self.attention(self.attention_norm(x), key_mask=key_mask, key_bias=key_bias)
        x = x + self.attention_scale(attended)
        x = x + self.mlp_scale(self.mlp(self.mlp_norm(x)))
        return x
