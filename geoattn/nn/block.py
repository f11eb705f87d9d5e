"""A pre-norm transformer block."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from geoattn.grids.checks import integer, positive, real
from geoattn.neighborhoods import Neighborhood
from geoattn.nn.attention import Attention, AttentionOptions
from geoattn.nn.checks import check_tokens
from geoattn.nn.drop_path import DropPath


class LayerScale(nn.Module):
    """A learned factor per channel, small at first (Touvron et al. 2021).

    Examples
    --------
    >>> ga.nn.LayerScale(4, 0.1)(torch.ones(1, 4))
    tensor([[0.1000, 0.1000, 0.1000, 0.1000]], grad_fn=<MulBackward0>)
    """

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
    drop_path
        Probability with which each branch leaves a sample out while training: see :class:`DropPath`.
    **attention
        Further arguments of :class:`Attention`: ``num_kv_heads``, ``head_dim``, ``qk_norm``, ``bias``,
        ``position``, ``scale``, ``key_weights``, ``device``, ``dtype``.

    Examples
    --------
    >>> block = ga.nn.Block(32, 4, ga.geodesic(ga.grids.gaussian(8, 16), radius=40), drop_path=0.1)
    >>> block(torch.randn(2, 8, 16, 32)).shape
    torch.Size([2, 8, 16, 32])
    """

    tokenwise = True
    #: keep the block's input alone for the backward pass, and work the rest out again: less memory, more time
    grad_checkpointing = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hood: Neighborhood,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
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
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, key_mask: Tensor | None = None, key_bias: Tensor | None = None) -> Tensor:
        """``[B, *grid.shape, dim]`` to the same."""
        check_tokens("x", x, self.attention.query_grid, self.attention.dim)
        if self.grad_checkpointing and torch.is_grad_enabled():
            again: Tensor = checkpoint(self._both, x, key_mask, key_bias, use_reentrant=False)
            return again
        return self._both(x, key_mask, key_bias)

    def _both(self, x: Tensor, key_mask: Tensor | None, key_bias: Tensor | None) -> Tensor:
        attended = self.attention(self.attention_norm(x), key_mask=key_mask, key_bias=key_bias)
        x = x + self.drop_path(self.attention_scale(attended))
        x = x + self.drop_path(self.mlp_scale(self.mlp(self.mlp_norm(x))))
        return x


def set_grad_checkpointing(model: nn.Module, enable: bool = True) -> nn.Module:
    """Let every :class:`Block` of a model keep its input alone for the backward pass, and return the model.

    Memory grows with the blocks' inputs then, and no longer with all that is within them; each block runs
    forward twice. Gradients are the same, to the bit on one machine.

    Raises
    ------
    ValueError
        If the model has no block.

    Examples
    --------
    >>> block = ga.nn.Block(32, 4, ga.geodesic(ga.grids.gaussian(8, 16), radius=40))
    >>> ga.nn.set_grad_checkpointing(block).grad_checkpointing
    True
    """
    blocks = [part for part in model.modules() if isinstance(part, Block)]
    if not blocks:
        raise ValueError(
            f"{type(model).__name__} has no ga.nn.Block to keep less of: build it of these, or wrap parts of "
            "it in torch.utils.checkpoint.checkpoint yourself"
        )
    for block in blocks:
        block.grad_checkpointing = enable
    return model
