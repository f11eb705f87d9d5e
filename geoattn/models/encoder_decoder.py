"""A hierarchical encoder–decoder: attention on ever coarser grids, and a decoder that sees all of them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoattn.grids import Grid, patches
from geoattn.models.base import Model
from geoattn.models.config import ModelConfig, check_input, drop_path_of
from geoattn.neighborhoods import Neighborhood
from geoattn.nn import Block, PatchEmbed, PatchUnembed, Position, PositionFeatures, Resample
from geoattn.nn.attention import AttentionOptions
from geoattn.nn.embedding import Spread

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class EncoderDecoderConfig(ModelConfig, kind="encoder_decoder"):
    """Everything that defines an :class:`EncoderDecoder`.

    Parameters
    ----------
    grid
        Where the fields live.
    hoods
        A neighborhood for each stage, from fine to coarse. Its grid is the stage's.
    in_channels, out_channels
        Channels of the fields given and predicted.
    dims, depths, num_heads
        Channels, blocks and heads of each stage.
    patches
        Points along each side of the patch that a stage makes one token of, counted on the grid of the
        stage before it: the grids' own hierarchy. None where the stages' grids are no patches of one
        another: then attention between the two grids leads from one to the next, and interpolation back.
    decoder_dim
        Channels of the decoder.
    mlp_ratio, qk_norm, key_weights, position, layer_scale, dropout
        See :class:`geoattn.nn.Block` and :class:`geoattn.nn.Attention`.
    drop_path
        Stochastic depth: the probability with which the last block's branches leave a sample out while
        training; it grows from 0 in equal steps from block to block, over all stages.
    features
        Degree of the smooth functions of position that the encoder sees; 0 for none.
    residual
        Predict the change of the first ``out_channels`` of the input instead of their new value.

    Examples
    --------
    >>> fine = ga.grids.gaussian(8, 16)
    >>> middle = ga.nn.patches(fine, 2).grid
    >>> hoods = ga.geodesic(middle, radius=50), ga.everything(ga.nn.patches(middle, 2).grid)
    >>> ga.models.EncoderDecoderConfig(
    ...     fine, hoods, 3, 2, dims=(8, 16), depths=(1, 1), num_heads=(1, 2), patches=(2, 2)
    ... )
    encoder–decoder of (1, 1) blocks × (8, 16) channels over geodesic discs of 50° on lat-lon gr...
    """

    grid: Grid
    hoods: tuple[Neighborhood, ...]
    in_channels: int
    out_channels: int
    dims: tuple[int, ...] = (32, 64, 128)
    depths: tuple[int, ...] = (2, 2, 2)
    num_heads: tuple[int, ...] = (1, 2, 4)
    patches: tuple[int | tuple[int, ...], ...] | None = (2, 2, 2)
    decoder_dim: int = 64
    mlp_ratio: float = 2.0
    qk_norm: bool = False
    key_weights: Literal["quadrature"] | None = "quadrature"
    position: str | Position | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    features: int = 4
    residual: bool = False
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hoods:
            raise ValueError("hoods must name a neighborhood for each stage, got none")
        stages = len(self.hoods)
        lengths = {"dims": self.dims, "depths": self.depths, "num_heads": self.num_heads}
        if self.patches is not None:
            lengths["patches"] = self.patches  # type: ignore[assignment]
        for name, values in lengths.items():
            if len(values) != stages:
                raise ValueError(
                    f"{name} {values} must have one entry for each of the {stages} neighborhoods"
                )
        if self.residual and self.out_channels > self.in_channels:
            raise ValueError(
                f"residual=True adds the change to the first out_channels of the input, but "
                f"out_channels {self.out_channels} exceeds in_channels {self.in_channels}"
            )
        for stage, hood in enumerate(self.hoods):
            if hood.key_grid != hood.query_grid:
                raise ValueError(f"the neighborhood of stage {stage} must lie on one grid, got {hood!r}")
        if self.patches is not None:
            grid, call = self.grid, "grid"
            for stage, (hood, side) in enumerate(zip(self.hoods, self.patches, strict=True)):
                grid, call = patches(grid, side).grid, f"ga.nn.patches({call}, {side}).grid"
                if hood.query_grid != grid:
                    raise ValueError(
                        f"stage {stage} works on the {grid!r}, and its neighborhood lies on the "
                        f"{hood.query_grid!r}: make it on {call}, or pass patches=None"
                    )

    def build(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> EncoderDecoder:
        return EncoderDecoder(self, device, dtype)

    def __repr__(self) -> str:
        return f"encoder–decoder of {self.depths} blocks × {self.dims} channels over {self.hoods[0]!r}, …"


class EncoderDecoder(Model):
    """Fields ``[B, in_channels, *grid.shape]`` to ``[B, out_channels, *grid.shape]``.

    After SegFormer (Xie et al., 2105.15203): every stage's tokens are brought to the decoder's channels
    and the first stage's grid, summed, and mapped to the points. The last layer starts at zero.

    Examples
    --------
    >>> fine = ga.grids.gaussian(8, 16)
    >>> middle = ga.nn.patches(fine, 2).grid
    >>> hoods = ga.geodesic(middle, radius=50), ga.everything(ga.nn.patches(middle, 2).grid)
    >>> config = ga.models.EncoderDecoderConfig(
    ...     fine, hoods, 3, 2, dims=(8, 16), depths=(1, 1), num_heads=(1, 2), patches=(2, 2)
    ... )
    >>> config.build()(torch.randn(1, 3, 8, 16)).shape
    torch.Size([1, 2, 8, 16])
    """

    config: EncoderDecoderConfig

    def __init__(
        self,
        config: EncoderDecoderConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = c = config
        self.grid: Grid = c.grid
        attention: AttentionOptions = {
            "qk_norm": c.qk_norm,
            "key_weights": c.key_weights,
            "position": c.position,
            "device": device,
            "dtype": dtype,
        }
        self.position_features = PositionFeatures(c.grid, c.features, device, dtype)
        grids = [hood.query_grid for hood in c.hoods]
        widths = [c.in_channels + self.position_features.count, *c.dims]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for stage, (fine, coarse) in enumerate(pairwise([c.grid, *grids])):
            given, dim = widths[stage : stage + 2]
            if c.patches is not None:
                self.down.append(PatchEmbed(fine, c.patches[stage], given, dim, device, dtype))
            else:
                self.down.append(_Between(coarse, fine, given, dim, c.num_heads[stage], attention))
        rates = iter([drop_path_of(c.drop_path, i, sum(c.depths)) for i in range(sum(c.depths))])
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Block(d, h, hood, c.mlp_ratio, c.layer_scale, c.dropout, next(rates), **attention)
                    for _ in range(n)
                ),
                nn.LayerNorm(d, device=device, dtype=dtype),
            )
            for d, n, h, hood in zip(c.dims, c.depths, c.num_heads, c.hoods, strict=True)
        )
        self.mix = nn.ModuleList(nn.Linear(dim, c.decoder_dim, device=device, dtype=dtype) for dim in c.dims)
        for stage, (fine, coarse) in enumerate(pairwise(grids), start=1):
            self.up.append(self._rise(fine, coarse, stage, device, dtype))
        self.head: nn.Module
        if c.patches is not None:
            self.head = PatchUnembed(c.grid, c.patches[0], c.decoder_dim, c.out_channels, device, dtype)
            last = self.head.projection
        else:
            last = nn.Linear(c.decoder_dim, c.out_channels, device=device, dtype=dtype)
            same = grids[0] == c.grid
            self.head = nn.Sequential(
                nn.Identity() if same else Resample(c.grid, grids[0], device=device, dtype=dtype), last
            )
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def _rise(
        self,
        fine: Grid,
        coarse: Grid,
        stage: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> nn.Module:
        """From the tokens of a stage to those of the stage before it."""
        if self.config.patches is None:
            return Resample(fine, coarse, device=device, dtype=dtype)
        return Spread(fine, self.config.patches[stage], shared=True).to(device=device)

    def forward(self, fields: Tensor) -> Tensor:
        c = self.config
        check_input(fields, c.in_channels, self.grid)
        tokens = self.position_features(fields.movedim(1, -1))
        seen = []
        for down, stage, mix in zip(self.down, self.stages, self.mix, strict=True):
            tokens = stage(down(tokens))
            seen.append(mix(tokens))
        together = seen.pop()
        for up, finer in zip(reversed(self.up), reversed(seen), strict=True):
            together = finer + up(together)
        out: Tensor = self.head(F.gelu(together)).movedim(-1, 1)
        return fields[:, : c.out_channels] + out if c.residual else out

    def divide(self, shards: Shards) -> None:
        """Work on the points of one of many processes: see :func:`geoattn.parallel.parallelize`."""
        self.grid = shards.grid(self.grid)


class _Between(nn.Module):
    """Channels by a linear map, then from one grid to the next by attention."""

    tokenwise = True

    def __init__(
        self, query_grid: Grid, key_grid: Grid, given: int, dim: int, heads: int, attention: AttentionOptions
    ) -> None:
        super().__init__()
        device, dtype = attention.get("device"), attention.get("dtype")
        self.linear = nn.Linear(given, dim, device=device, dtype=dtype)
        self.resample: nn.Module = nn.Identity()
        if query_grid != key_grid:
            self.resample = Resample(query_grid, key_grid, "attention", dim=dim, num_heads=heads, **attention)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.resample(self.linear(x))
        return out
