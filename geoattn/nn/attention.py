"""The attention module: projections around the operator."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoattn.functional import attention
from geoattn.grids import Grid
from geoattn.neighborhoods import Neighborhood
from geoattn.nn.position import Position, resolve


class Attention(nn.Module):
    """Multi-head attention over a neighborhood, on one grid or from one grid to another.

    Parameters
    ----------
    dim
        Channels of ``x``, of ``context`` and of the result.
    num_heads
        Query heads.
    hood
        Which keys each query sees.
    num_kv_heads
        Key and value heads, a divisor of ``num_heads``; query heads share them. Default: as many.
    head_dim
        Channels of a head; default ``dim // num_heads``.
    qk_norm
        Normalise each head's queries and keys to root mean square 1, with a learned gain.
    bias
        Whether the projections have a bias.
    position
        Relative position: ``None``, ``"harmonic"`` or ``"directional"`` (spheres), ``"fourier"`` or
        ``"rotary"`` (planes), or a value such as ``ga.nn.Harmonic(degree=6)``.
    dropout
        Probability of dropping a channel of the result, after the output projection. Attention
        weights are never dropped.
    key_weights
        ``"quadrature"`` weighs each key by its cell, as the integral does; ``None`` counts all alike.

    Raises
    ------
    ValueError
        If the heads do not divide, or the position scheme does not fit the grids.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hood: Neighborhood,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        qk_norm: bool = False,
        bias: bool = True,
        position: str | Position | None = None,
        dropout: float = 0.0,
        key_weights: Literal["quadrature"] | None = "quadrature",
    ) -> None:
        super().__init__()
        if key_weights not in ("quadrature", None):
            raise ValueError(f'key_weights must be "quadrature" or None, got {key_weights!r}')
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads must be a positive multiple of num_kv_heads, got {num_heads} and {num_kv_heads}"
            )
        if head_dim is None and dim % num_heads:
            raise ValueError(
                f"dim {dim} is no multiple of num_heads {num_heads}; pass head_dim to choose another size"
            )
        self.dim, self.hood, self.key_weights = dim, hood, key_weights
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        self.sizes = [n * self.head_dim for n in (num_heads, num_kv_heads, num_kv_heads)]
        # One matrix for queries, keys and values: self-attention multiplies once, and self- and
        # cross-attention share the layout of their state.
        self.qkv = nn.Linear(dim, sum(self.sizes), bias=bias)
        self.out = nn.Linear(self.sizes[0], dim, bias=bias)
        self.query_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        scheme = resolve(position)
        self.position = (
            None
            if scheme is None
            else scheme.module(hood.query_grid, hood.key_grid, num_heads, self.head_dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """Attend from ``x`` to itself, or to ``context``.

        Parameters
        ----------
        x
            ``[B, *query_grid.shape, dim]``.
        context
            ``[B, *key_grid.shape, dim]``; without it the keys are those of ``x``, which needs a
            neighborhood on one grid.
        key_mask
            Boolean ``[*key_grid.shape]`` or ``[B, *key_grid.shape]``; True marks visible keys.

        Returns
        -------
        ``[B, *query_grid.shape, dim]``. A query that sees no key gets the output bias.
        """
        check_tokens("x", x, self.hood.query_grid, self.dim)
        if context is None:
            if self.hood.query_grid != self.hood.key_grid:
                raise ValueError(
                    f"{self.hood!r} leads from one grid to another: pass the tokens of "
                    f"{self.hood.key_grid!r} as context"
                )
            q, k, v = torch.split(self.qkv(x), self.sizes, dim=-1)
        else:
            check_tokens("context", context, self.hood.key_grid, self.dim)
            own = self.sizes[0]
            bias = (None, None) if self.qkv.bias is None else (self.qkv.bias[:own], self.qkv.bias[own:])
            q = F.linear(x, self.qkv.weight[:own], bias[0])
            k, v = torch.split(F.linear(context, self.qkv.weight[own:], bias[1]), self.sizes[1:], dim=-1)

        q = self.query_norm(torch.unflatten(q, -1, (self.num_heads, self.head_dim)))
        k = self.key_norm(torch.unflatten(k, -1, (self.num_kv_heads, self.head_dim)))
        v = torch.unflatten(v, -1, (self.num_kv_heads, self.head_dim))
        scale = self.head_dim**-0.5
        if self.position is not None:
            q, k = self.position(q, k, scale)
        mixed = attention(q, k, v, self.hood, scale=scale, key_weights=self.key_weights, key_mask=key_mask)
        result: Tensor = self.dropout(self.out(mixed.flatten(-2)))
        return result

    def extra_repr(self) -> str:
        heads = f"{self.num_heads} heads of {self.head_dim}, {self.num_kv_heads} for keys and values"
        return f"{self.dim} channels, {heads}, over {self.hood!r}"


def check_tokens(name: str, x: Tensor, grid: Grid, dim: int) -> None:
    """Refuse tokens that are not ``[B, *grid.shape, dim]``."""
    if tuple(x.shape[1:]) != (*grid.shape, dim):
        expected = ", ".join(map(str, ("B", *grid.shape, dim)))
        raise ValueError(f"{name} must have shape [{expected}] on {grid!r}, got {list(x.shape)}")
