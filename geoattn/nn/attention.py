"""The attention module: projections around the operator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from geoattn.backends.base import is_computed
from geoattn.functional import attention
from geoattn.grids.checks import integer, positive, real
from geoattn.neighborhoods import Neighborhood
from geoattn.neighborhoods.base import require_neighborhood
from geoattn.nn.checks import check_rate, check_tokens
from geoattn.nn.position.base import Position, resolve
from geoattn.nn.position.pairs import PairBias, PairBiases
from geoattn.nn.table import Table

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


class AttentionOptions(TypedDict, total=False):
    """What modules around :class:`Attention` hand on to it."""

    num_kv_heads: int | None
    head_dim: int | None
    qk_norm: bool
    bias: bool
    position: str | Position | None
    scale: float | Tensor | Literal["learned"] | None
    key_weights: Literal["quadrature"] | Tensor | None
    device: torch.device | str | None
    dtype: torch.dtype | None


class Attention(nn.Module):
    """Multi-head attention over a neighborhood, on one grid or from one grid to another.

    On one grid a single matrix, ``qkv``, makes queries, keys and values, so that self-attention multiplies
    once; with ``context`` it is called on both, and of each result the part that counts is taken. From one
    grid to another there are two, ``query`` and ``key_value``. Every path calls them, with their hooks and
    whatever adapters stand in their place.

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
        Relative position: ``None``; carried by channels, ``"harmonic"`` or ``"directional"`` (spheres),
        ``"fourier"`` or ``"rotary"`` (planes); a bias for every pair, ``"offsets"`` (windows), ``"angles"``
        (spheres) or ``"continuous"``; or a value such as ``ga.nn.Harmonic(degree=6)``.
    dropout
        Probability of dropping a channel of the result, after the output projection. Attention
        weights are never dropped.
    scale
        Factor of the dot products, ``head_dim ** -0.5`` by default: a number, or a tensor of one or
        ``num_heads`` numbers; a parameter is learned. ``"learned"`` is cosine attention (Swin V2,
        2111.09883): queries and keys of unit length, and for each head a learned factor, at first 10 and
        at most 100.
    key_weights
        ``"quadrature"`` weighs each key by its cell, as the integral does; ``None`` counts all alike; or
        positive weights ``[*key_grid.shape]``, kept in the module's state.
    device, dtype
        Where and as what the parameters are made, as in torch's own modules.

    Raises
    ------
    TypeError
        If ``hood`` is no neighborhood, or a number is of the wrong kind.
    ValueError
        If the heads do not divide, a number is out of range, or the position scheme does not fit the grids.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> layer = ga.nn.Attention(dim=32, num_heads=4, hood=ga.geodesic(grid, radius=40))
    >>> layer(torch.randn(2, 8, 16, 32)).shape
    torch.Size([2, 8, 16, 32])
    """

    scale: Tensor | float
    key_weights: Literal["quadrature"] | Tensor | None

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
        scale: float | Tensor | Literal["learned"] | None = None,
        key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_neighborhood("hood", hood)
        dim, num_heads = integer("dim", dim), integer("num_heads", num_heads)
        num_kv_heads = num_heads if num_kv_heads is None else integer("num_kv_heads", num_kv_heads)
        positive(dim=dim, num_heads=num_heads, num_kv_heads=num_kv_heads)
        if num_heads % num_kv_heads:
            raise ValueError(
                f"num_heads must be a positive multiple of num_kv_heads, got {num_heads} and {num_kv_heads}"
            )
        if head_dim is None and dim % num_heads:
            fitting = max(n for n in range(1, num_heads) if dim % n == 0)
            raise ValueError(
                f"dim {dim} is no multiple of num_heads {num_heads}: take num_heads={fitting}, or "
                f"dim={num_heads * -(-dim // num_heads)}, or pass head_dim to choose another size"
            )
        head_dim = dim // num_heads if head_dim is None else integer("head_dim", head_dim)
        positive(head_dim=head_dim)
        check_rate("dropout", dropout)
        self.dim, self.hood, self.head_dim = dim, hood, head_dim
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.sizes = [n * head_dim for n in (num_heads, num_kv_heads, num_kv_heads)]
        self.query_grid, self.key_grid = hood.query_grid, hood.key_grid
        self.on_one_grid = hood.query_grid == hood.key_grid
        #: what attends, and over what; on one of many processes, and over its part of the neighborhood
        self.attend: Any = attention
        self.over: Any = hood
        self.own_keys: Table | None = None

        def linear(given: int, made: int) -> nn.Linear:
            return nn.Linear(given, made, bias=bias, device=device, dtype=dtype)

        def norm() -> nn.Module:
            return nn.RMSNorm(head_dim, device=device, dtype=dtype) if qk_norm else nn.Identity()

        if self.on_one_grid:
            self.qkv = linear(dim, sum(self.sizes))
        else:
            self.query, self.key_value = linear(dim, self.sizes[0]), linear(dim, sum(self.sizes[1:]))
        self.out = linear(self.sizes[0], dim)
        self.query_norm, self.key_norm = norm(), norm()
        self.position: nn.Module | None = None
        if (scheme := resolve(position)) is not None:
            own = scheme.build(hood, num_heads, head_dim)
            self.position = own.to(device=device, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        if isinstance(scale, str) and qk_norm:
            raise ValueError(
                f"scale={scale!r} brings queries and keys to unit length itself; drop qk_norm=True"
            )
        self._take_scale(scale, device)
        self._take_key_weights(key_weights, device)

    def _take_scale(
        self, scale: float | Tensor | Literal["learned"] | None, device: torch.device | str | None
    ) -> None:
        self.log_scale: nn.Parameter | None = None
        if isinstance(scale, str):
            if scale != "learned":
                raise ValueError(f"scale must be 'learned', a number, a tensor or None, got {scale!r}")
            self.log_scale = nn.Parameter(torch.full((self.num_heads,), math.log(10.0), device=device))
            return
        if scale is None:
            scale = self.head_dim**-0.5
        if not isinstance(scale, Tensor):
            self.scale = real("scale", scale)
        elif scale.numel() not in (1, self.num_heads) or not is_computed(scale.dtype):
            raise ValueError(
                f"scale must be a number or a floating-point tensor of 1 or {self.num_heads} numbers, one "
                f"for each head, got {scale.dtype} of shape {list(scale.shape)}"
            )
        elif isinstance(scale, nn.Parameter):
            self.scale = scale if device is None else nn.Parameter(scale.to(device), scale.requires_grad)
        else:
            self.register_buffer("scale", scale.detach().clone().to(device))

    def _take_key_weights(
        self, weights: Literal["quadrature"] | Tensor | None, device: torch.device | str | None
    ) -> None:
        if isinstance(weights, Tensor):
            if tuple(weights.shape) != self.hood.key_grid.shape or not is_computed(weights.dtype):
                raise ValueError(
                    f"key_weights must be floating point of 16 to 64 bits and of the key grid's shape "
                    f"{self.hood.key_grid.shape}, got {weights.dtype} of shape {list(weights.shape)}"
                )
            self.register_buffer("key_weights", weights.detach().clone().to(device))
        elif weights is None or (isinstance(weights, str) and weights == "quadrature"):
            self.key_weights = weights
        elif isinstance(weights, str):
            raise ValueError(f'key_weights must be "quadrature", None or a tensor, got {weights!r}')
        else:
            raise TypeError(
                f'key_weights must be "quadrature", None or a tensor, got {type(weights).__name__}; make a '
                "tensor of it with torch.as_tensor(…)"
            )

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        key_mask: Tensor | None = None,
        key_bias: Tensor | None = None,
    ) -> Tensor:
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
        key_bias
            Of the same shapes, added to the scores.

        Returns
        -------
        ``[B, *query_grid.shape, dim]``. A query that sees no key gets the output bias.
        """
        q, k, v = self._project(x, context)
        q = self.query_norm(torch.unflatten(q, -1, (self.num_heads, self.head_dim)))
        k = self.key_norm(torch.unflatten(k, -1, (self.num_kv_heads, self.head_dim)))
        v = torch.unflatten(v, -1, (self.num_kv_heads, self.head_dim))
        if self.log_scale is None:
            scale = self.scale
        else:
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
            scale = self.log_scale.clamp(max=math.log(100.0)).exp()
        pairs: dict[str, Any] = {}
        if isinstance(self.position, (PairBias, PairBiases)):  # torch 2.8 compiles no union
            pairs = {"relation": self.position.relation, "relation_bias": self.position()}
        elif self.position is not None:
            q, k = self.position(q, k, scale)
        weights = self.key_weights
        if self.own_keys is not None and isinstance(weights, Tensor):
            weights = weights.flatten().index_select(0, self.own_keys())
        mixed = self.attend(
            q,
            k,
            v,
            self.over,
            scale=scale,
            key_weights=weights,
            key_mask=key_mask,
            key_bias=key_bias,
            **pairs,
        )
        result: Tensor = self.dropout(self.out(mixed.flatten(-2)))
        return result

    def _project(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        check_tokens("x", x, self.query_grid, self.dim)
        if context is not None:
            check_tokens("context", context, self.key_grid, self.dim)
        elif not self.on_one_grid:
            raise ValueError(
                f"{self.hood!r} leads from one grid to another: pass the tokens of "
                f"{self.hood.key_grid!r} as context"
            )
        if not self.on_one_grid:
            k, v = torch.split(self.key_value(context), self.sizes[1:], dim=-1)
            return self.query(x), k, v
        q, k, v = torch.split(self.qkv(x), self.sizes, dim=-1)
        if context is not None:
            _, k, v = torch.split(self.qkv(context), self.sizes, dim=-1)
        return q, k, v

    def no_weight_decay(self) -> set[str]:
        """Parameters that are coefficients of position or scales of scores, not weights of a map."""
        return {
            n for n, _ in self.named_parameters() if n.partition(".")[0] in ("position", "log_scale", "scale")
        }

    def neighborhoods(self) -> Sequence[Neighborhood]:
        """From where to where tokens move."""
        return (self.hood,)

    def divide(self, shards: Shards) -> None:
        """Attend on one of many processes from its tokens on."""
        self.query_grid, self.key_grid = shards.grid(self.hood.query_grid), shards.grid(self.hood.key_grid)
        self.attend, self.over = shards.attention, shards.part(self.hood)
        if isinstance(self.key_weights, Tensor):  # the state holds those of the whole
            self.own_keys = Table(shards.tokens(self.hood.key_grid))
            self.own_keys.to(self.key_weights.device).replace(self.own_keys.original.long())

    def extra_repr(self) -> str:
        heads = f"{self.num_heads} heads of {self.head_dim}, {self.num_kv_heads} for keys and values"
        return f"{self.dim} channels, {heads}, over {self.hood!r}"
