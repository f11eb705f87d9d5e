"""A pre-norm transformer block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from geoattn.neighborhoods import Neighborhood
from geoattn.nn.attention import Attention


class LayerScale(nn.Module):
    """A learned factor per channel, small at first (Touvron et al. 2021)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((dim,), start))

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
        Further arguments of :class:`Attention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hood: Neighborhood,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        **attention: Any,
    ) -> None:
        super().__init__()
        hidden = round(dim * mlp_ratio)

        def scaled() -> nn.Module:
            return nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)

        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, hood, dropout=dropout, **attention)
        self.attention_scale = scaled()
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.mlp_scale = scaled()

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """``[B, *grid.shape, dim]`` to the same."""
        x = x + self.attention_scale(self.attention(self.attention_norm(x), key_mask=key_mask))
        x = x + self.mlp_scale(self.mlp(self.mlp_norm(x)))
        return x
