"""Attention layers with the signatures, parameters and results of torch-harmonics 0.9's."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoattn import grids
from geoattn.compat._knobs import note
from geoattn.functional import attention
from geoattn.grids.latlon import LatLonGrid
from geoattn.neighborhoods import everything, geodesic
from geoattn.neighborhoods.base import Neighborhood

#: their discs reach this many times theta_cutoff, so that no ring is lost to rounding near the poles
REACH = 1.001

Shape = tuple[int, int]


def _trapezoidal(nlat: int, nlon: int) -> LatLonGrid:
    """Rows at equal steps of sin(latitude), both poles among them, with trapezoidal weights."""
    weights = np.ones(nlat)
    weights[[0, -1]] = 0.5
    return grids.latlon(
        np.degrees(np.arcsin(np.linspace(1, -1, nlat))), np.arange(nlon) * 360 / nlon, weights
    )


#: torch-harmonics' name of a grid → ours
GRIDS: dict[str, Callable[[int, int], LatLonGrid]] = {
    "equiangular": grids.equiangular,
    "legendre-gauss": grids.gaussian,
    "lobatto": grids.lobatto,
    "equiangular-trapezoidal": _trapezoidal,
}


def grid(kind: str, shape: Shape) -> LatLonGrid:
    """The grid that torch-harmonics calls ``kind``, with ``shape`` (nlat, nlon)."""
    if kind not in GRIDS:
        raise ValueError(f"unknown grid {kind!r}; torch-harmonics has {', '.join(map(repr, GRIDS))}")
    return GRIDS[kind](*shape)


class SphereAttention(nn.Module, ABC):
    """What both layers share: projections by 1×1 maps, normalised queries and keys, and the call."""

    hood: Neighborhood
    q_norm_weights: nn.Parameter | None
    k_norm_weights: nn.Parameter
    proj_bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        in_shape: Shape,
        out_shape: Shape,
        use_qknorm: bool,
        bias: bool,
        k_channels: int | None,
        out_channels: int | None,
    ) -> None:
        super().__init__()
        self.nlat_in, self.nlon_in = in_shape
        self.nlat_out, self.nlon_out = out_shape
        self.in_channels, self.num_heads = in_channels, num_heads
        self.k_channels = in_channels if k_channels is None else k_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        for name in ("k_channels", "out_channels"):
            if getattr(self, name) % num_heads:
                raise ValueError(f"num_heads {num_heads} must divide {name} {getattr(self, name)}")

        def uniform(bound: float, *shape: int) -> nn.Parameter:
            return nn.Parameter(bound * (2 * torch.rand(*shape, 1, 1) - 1))

        # bounds and order of theirs, so that one seed gives both the same weights
        query_bound = math.sqrt(6 / (in_channels + self.k_channels))
        value_bound = math.sqrt(6 / (in_channels + self.out_channels))
        self.q_weights = uniform(query_bound, self.k_channels, in_channels)
        self.k_weights = uniform(query_bound, self.k_channels, in_channels)
        self.v_weights = uniform(value_bound, self.out_channels, in_channels)
        self.proj_weights = uniform(math.sqrt(3 / self.out_channels), self.out_channels, self.out_channels)
        for name, width in (
            ("q", self.k_channels),
            ("k", self.k_channels),
            ("v", self.out_channels),
            ("proj", self.out_channels),
        ):
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(width)) if bias else None)
        for name in ("q", "k"):
            gain = nn.Parameter(torch.zeros(self.k_channels // num_heads)) if use_qknorm else None
            self.register_parameter(f"{name}_norm_weights", gain)

    def extra_repr(self) -> str:
        return (
            f"in_shape={(self.nlat_in, self.nlon_in)}, out_shape={(self.nlat_out, self.nlon_out)}, "
            f"in_channels={self.in_channels}, out_channels={self.out_channels}, k_channels={self.k_channels}"
        )

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        """Attention from the output grid over the input grid.

        Parameters
        ----------
        query
            ``[B, in_channels, nlat_out, nlon_out]``.
        key, value
            ``[B, in_channels, nlat_in, nlon_in]``; ``query`` where None.

        Returns
        -------
        Tensor
            ``[B, out_channels, nlat_out, nlon_out]``.

        Raises
        ------
        RuntimeError
            If a shape or a dtype does not fit, as in torch-harmonics.
        """
        key = query if key is None else key
        value = query if value is None else value
        self._check(query, key, value)
        last = {x: x.movedim(1, -1).contiguous() for x in (query, key, value)}  # one copy where they are one
        q, k, v = (
            self._project("q", last[query]),
            self._project("k", last[key]),
            self._project("v", last[value]),
        )
        if self.q_norm_weights is not None:  # theirs is the departure from 1
            q = F.rms_norm(q, q.shape[-1:], 1 + self.q_norm_weights)
            k = F.rms_norm(k, k.shape[-1:], 1 + self.k_norm_weights)
        q, scale = self._scaled(q)
        out = attention(q, k, v, self.hood, scale=scale).flatten(-2)
        return F.linear(out, self.proj_weights[:, :, 0, 0], self.proj_bias).movedim(-1, 1)

    def _project(self, name: str, x: Tensor) -> Tensor:
        weights, bias = getattr(self, f"{name}_weights"), getattr(self, f"{name}_bias")
        x = F.linear(x, weights[:, :, 0, 0], bias)
        return x.view(*x.shape[:-1], self.num_heads, -1)

    @abstractmethod
    def _scaled(self, q: Tensor) -> tuple[Tensor, float | None]:
        """Queries and the scale of the scores; a tensor multiplies the queries in the layout of theirs."""

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        out_shape, in_shape = (self.nlat_out, self.nlon_out), (self.nlat_in, self.nlon_in)
        for name, x, shape in (
            ("query", query, out_shape),
            ("key", key, in_shape),
            ("value", value, in_shape),
        ):
            if x.ndim != 4 or tuple(x.shape[1:]) != (self.in_channels, *shape):
                wanted = ", ".join(map(str, ("B", self.in_channels, *shape)))
                raise RuntimeError(f"{name} must be [{wanted}], got shape {tuple(x.shape)}")
        if not query.dtype == key.dtype == value.dtype:
            raise RuntimeError(
                f"query, key and value must have one dtype, got {query.dtype}, {key.dtype} and {value.dtype}"
            )


class AttentionS2(SphereAttention):
    """``torch_harmonics.AttentionS2``: every point of the input grid is seen, by its quadrature weight.

    Parameters
    ----------
    in_channels, num_heads
        Width of the input and number of heads.
    in_shape, out_shape
        (nlat, nlon) of keys and of queries. Any pair; torch-harmonics asks for multiples of longitudes.
    grid_in, grid_out
        "equiangular", "legendre-gauss", "lobatto" or "equiangular-trapezoidal".
    scale
        Number, or a tensor that multiplies the queries ``[B, num_heads, nlat_out * nlon_out, channels]``.
    use_qknorm, bias, k_channels, out_channels
        As in torch-harmonics.
    drop_rate
        Dropout of attention weights. Kept, so that a trained model can be evaluated; above 0 it is
        refused when the layer is called in training.

    Examples
    --------
    >>> layer = ga.compat.torch_harmonics.AttentionS2(8, 2, (6, 12), (6, 12))
    >>> layer(torch.randn(1, 8, 6, 12)).shape
    torch.Size([1, 8, 6, 12])
    """

    def __init__(
        self,
        in_channels: int,
        num_heads: int,
        in_shape: Shape,
        out_shape: Shape,
        grid_in: str = "equiangular",
        grid_out: str = "equiangular",
        scale: Tensor | float | None = None,
        use_qknorm: bool = False,
        bias: bool = True,
        k_channels: int | None = None,
        out_channels: int | None = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__(
            in_channels, num_heads, in_shape, out_shape, use_qknorm, bias, k_channels, out_channels
        )
        self.scale, self.drop_rate = scale, drop_rate
        self.hood = everything(grid(grid_out, out_shape), grid(grid_in, in_shape))

    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None) -> Tensor:
        if self.training and self.drop_rate > 0:
            raise ValueError(
                f"drop_rate={self.drop_rate} in training: attention weights are never formed here, so none "
                "can be dropped; set layer.drop_rate = 0.0 to train without, or call model.eval()"
            )
        return super().forward(query, key, value)

    forward.__doc__ = SphereAttention.forward.__doc__

    def _scaled(self, q: Tensor) -> tuple[Tensor, float | None]:
        if not isinstance(self.scale, Tensor):
            return q, self.scale
        rows = q.flatten(1, 2).transpose(1, 2) * self.scale
        return rows.transpose(1, 2).reshape(q.shape), 1.0


class NeighborhoodAttentionS2(SphereAttention):
    """``torch_harmonics.NeighborhoodAttentionS2``: the points within an angle are seen, by their weight.

    Discs reach 1.001 times ``theta_cutoff``, as theirs do. A query whose disc holds no point gives the
    bias of the projection.

    Parameters
    ----------
    in_channels, in_shape, out_shape, grid_in, grid_out, num_heads, use_qknorm, bias, k_channels, out_channels
        As for :class:`AttentionS2`. The longitudes of one grid are a multiple of the other's.
    scale
        Number, or a tensor that multiplies the queries ``[B, nlat_out, nlon_out, k_channels]``.
    theta_cutoff
        Radians; the sphere from π on. Unless given, the widest step of latitude of the coarser grid, as
        in 0.9.3.
    optimized_kernel
        Chooses a kernel of theirs; ignored.

    Examples
    --------
    >>> layer = ga.compat.torch_harmonics.NeighborhoodAttentionS2(8, (16, 32), (8, 16), num_heads=2)
    >>> query, keys = torch.randn(1, 8, 8, 16), torch.randn(1, 8, 16, 32)
    >>> layer(query, keys, keys).shape
    torch.Size([1, 8, 8, 16])
    """

    def __init__(
        self,
        in_channels: int,
        in_shape: Shape,
        out_shape: Shape,
        grid_in: str = "equiangular",
        grid_out: str = "equiangular",
        num_heads: int = 1,
        scale: Tensor | float | None = None,
        use_qknorm: bool = False,
        bias: bool = True,
        theta_cutoff: float | None = None,
        k_channels: int | None = None,
        out_channels: int | None = None,
        optimized_kernel: bool = True,
    ) -> None:
        super().__init__(
            in_channels, num_heads, in_shape, out_shape, use_qknorm, bias, k_channels, out_channels
        )
        note("torch-harmonics", {"optimized_kernel": optimized_kernel}, {"optimized_kernel": True})
        self.optimized_kernel = optimized_kernel
        if self.nlon_in % self.nlon_out and self.nlon_out % self.nlon_in:
            raise ValueError(
                f"the longitudes of one grid must be a multiple of the other's, got {self.nlon_in} in and "
                f"{self.nlon_out} out; geoattn.geodesic takes any two grids"
            )
        self.upsample = self.nlon_in % self.nlon_out != 0
        query_grid, key_grid = grid(grid_out, out_shape), grid(grid_in, in_shape)
        if theta_cutoff is None:
            rows = (key_grid if self.upsample else query_grid).lat_axis
            if len(rows) < 2:
                raise ValueError("a grid of one latitude has no spacing; give theta_cutoff")
            theta_cutoff = math.radians(float(np.abs(np.diff(rows)).max()))
        if not theta_cutoff > 0.0:
            raise ValueError(f"theta_cutoff must be above 0 radians, got {theta_cutoff!r}")
        self.theta_cutoff = theta_cutoff
        self.scale = 1 / math.sqrt(self.k_channels // num_heads) if scale is None else scale
        self.hood = geodesic(query_grid, key_grid, radius=math.degrees(REACH * theta_cutoff))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, theta_cutoff={self.theta_cutoff}"

    def _scaled(self, q: Tensor) -> tuple[Tensor, float | None]:
        if not isinstance(self.scale, Tensor):
            return q, self.scale
        return (q.flatten(-2) * self.scale).view(q.shape), 1.0
