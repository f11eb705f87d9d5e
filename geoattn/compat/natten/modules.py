"""NATTEN 0.21's modules, with its parameters."""

from __future__ import annotations

from torch import Tensor, nn

from geoattn.compat.natten.arguments import Flag, Size, flags, sizes
from geoattn.compat.natten.functional import neighborhood_attention_generic

__all__ = ["NeighborhoodAttention1D", "NeighborhoodAttention2D", "NeighborhoodAttention3D"]


class _NeighborhoodAttention(nn.Module):
    """Projections around neighborhood self-attention of ``[B, *shape, embed_dim]``.

    Parameters
    ----------
    embed_dim, num_heads
        Width, a multiple of the number of heads.
    kernel_size, stride, dilation, is_causal
        The window of :func:`geoattn.window`, one value or one per axis.
    qkv_bias
        Whether the projection of queries, keys and values has a bias.
    qk_scale
        ``head_dim ** -0.5`` where None or 0, as in NATTEN.
    proj_drop
        Dropout of the output.
    """

    na_dim: int

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Size,
        stride: Size | None = 1,
        dilation: Size | None = 1,
        is_causal: Flag | None = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide embed_dim {embed_dim}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.scale = qk_scale or self.head_dim**-0.5
        self.kernel_size = sizes("kernel_size", kernel_size, self.na_dim)
        self.stride = sizes("stride", stride, self.na_dim, 1)
        self.dilation = sizes("dilation", dilation, self.na_dim, 1)
        self.is_causal = flags("is_causal", is_causal, self.na_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *shape, embed_dim]`` to the same."""
        if x.ndim != self.na_dim + 2 or x.shape[-1] != self.embed_dim:
            raise ValueError(
                f"{type(self).__name__} takes [B, {self.na_dim} axes of tokens, {self.embed_dim}], got shape "
                f"{tuple(x.shape)}"
            )
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        out = neighborhood_attention_generic(
            q, k, v, self.kernel_size, self.stride, self.dilation, self.is_causal, self.scale
        )
        assert isinstance(out, Tensor)
        mixed: Tensor = self.proj_drop(self.proj(out.flatten(-2)))
        return mixed

    def extra_repr(self) -> str:
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, dilation={self.dilation}, is_causal={self.is_causal}"
        )


class NeighborhoodAttention1D(_NeighborhoodAttention):
    """``natten.NeighborhoodAttention1D``: self-attention of ``[B, L, embed_dim]``.

    Examples
    --------
    >>> layer = ga.compat.natten.NeighborhoodAttention1D(embed_dim=32, num_heads=2, kernel_size=3)
    >>> layer(torch.randn(1, 12, 32)).shape
    torch.Size([1, 12, 32])
    """

    na_dim = 1


class NeighborhoodAttention2D(_NeighborhoodAttention):
    """``natten.NeighborhoodAttention2D``: self-attention of ``[B, X, Y, embed_dim]``.

    Examples
    --------
    >>> layer = ga.compat.natten.NeighborhoodAttention2D(embed_dim=32, num_heads=2, kernel_size=3)
    >>> layer(torch.randn(1, 8, 12, 32)).shape
    torch.Size([1, 8, 12, 32])
    """

    na_dim = 2


class NeighborhoodAttention3D(_NeighborhoodAttention):
    """``natten.NeighborhoodAttention3D``: self-attention of ``[B, X, Y, Z, embed_dim]``.

    Examples
    --------
    >>> layer = ga.compat.natten.NeighborhoodAttention3D(embed_dim=32, num_heads=2, kernel_size=3)
    >>> layer(torch.randn(1, 4, 8, 12, 32)).shape
    torch.Size([1, 4, 8, 12, 32])
    """

    na_dim = 3
