"""A transformer on any grid and any neighborhood: encode, process, decode."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from geoattn.grids import Grid
from geoattn.grids.checks import positive
from geoattn.models.base import Model
from geoattn.models.config import ModelConfig, check_input, drop_path_of
from geoattn.neighborhoods import Neighborhood
from geoattn.neighborhoods.base import require_neighborhood
from geoattn.nn import Block, PatchEmbed, PatchUnembed, Position, PositionFeatures, Resample
from geoattn.nn.attention import AttentionOptions

if TYPE_CHECKING:
    from geoattn.parallel.shards import Shards


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransformerConfig(ModelConfig, kind="transformer"):
    """Everything that defines a :class:`Transformer`; ``to_dict()`` gives JSON types.

    Parameters
    ----------
    grid
        Where the fields live.
    hoods
        The neighborhood of the processor's blocks, or a tuple of several that they take in turn.
        Their grid is the processor's: ``grid`` itself, its patches (``ga.nn.patches(grid, patch).grid``),
        or any other grid of the same domain, reached by attention between the two.
    in_channels, out_channels
        Channels of the fields given and predicted.
    dim, depth, num_heads, num_kv_heads, mlp_ratio, qk_norm, key_weights, position, layer_scale, dropout
        The processor: see :class:`geoattn.nn.Block` and :class:`geoattn.nn.Attention`.
    drop_path
        Stochastic depth: the probability with which the last block's branches leave a sample out while
        training; it grows from 0 in equal steps from block to block.
    patch
        Points along each side of the patch that the encoder makes one token of.
    features
        Degree of the smooth functions of position that the encoder sees; 0 for none.
    residual
        Predict the change of the first ``out_channels`` of the input instead of their new value.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 3, 2, dim=32, depth=2)
    transformer of 2 blocks × 32 channels on Gaussian grid 8×16 over geodesic discs of 40° on Ga...
    """

    grid: Grid
    hoods: tuple[Neighborhood, ...]
    in_channels: int
    out_channels: int
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None
    mlp_ratio: float = 2.0
    qk_norm: bool = False
    key_weights: Literal["quadrature"] | None = "quadrature"
    position: str | Position | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    patch: int | tuple[int, ...] = 1
    features: int = 4
    residual: bool = True
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.hoods, Neighborhood):
            object.__setattr__(self, "hoods", (self.hoods,))
        if not isinstance(self.hoods, tuple | list):
            require_neighborhood("hoods", self.hoods)
        super().__post_init__()
        positive(depth=self.depth)
        if not self.hoods:
            raise ValueError("hoods must name at least one neighborhood, got none")
        if self.residual and self.out_channels > self.in_channels:
            raise ValueError(
                f"residual=True adds the change to the first out_channels of the input, but "
                f"out_channels {self.out_channels} exceeds in_channels {self.in_channels}"
            )
        for hood in self.hoods:
            if hood.query_grid != self.hoods[0].query_grid or hood.key_grid != hood.query_grid:
                raise ValueError(
                    f"all neighborhoods of the processor must lie on one grid, got {list(self.hoods)}"
                )

    def build(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Transformer:
        return Transformer(self, device, dtype)

    def __repr__(self) -> str:
        size = f"{self.depth} blocks × {self.dim} channels"
        return f"transformer of {size} on {self.grid!r} over {self.hoods[0]!r}"


class Transformer(Model):
    """Fields ``[B, in_channels, *grid.shape]`` to ``[B, out_channels, *grid.shape]``.

    The last layer starts at zero: with ``residual`` a new model is persistence.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> model = ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 3, 2, depth=1).build()
    >>> model(torch.randn(1, 3, 8, 16)).shape
    torch.Size([1, 2, 8, 16])
    """

    config: TransformerConfig

    def __init__(
        self,
        config: TransformerConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = c = config
        self.grid: Grid = c.grid
        attention: AttentionOptions = {
            "num_kv_heads": c.num_kv_heads,
            "qk_norm": c.qk_norm,
            "key_weights": c.key_weights,
            "position": c.position,
            "device": device,
            "dtype": dtype,
        }
        self.position_features = PositionFeatures(c.grid, c.features, device, dtype)
        self.encoder = PatchEmbed(
            c.grid, c.patch, c.in_channels + self.position_features.count, c.dim, device, dtype
        )
        grid, processor_grid = self.encoder.coarse_grid, c.hoods[0].query_grid
        self.to_processor: nn.Module = nn.Identity()
        self.from_processor: nn.Module = nn.Identity()
        if processor_grid != grid:
            self.to_processor = Resample(
                processor_grid, grid, "attention", dim=c.dim, num_heads=c.num_heads, **attention
            )
            self.from_processor = Resample(
                grid, processor_grid, "attention", dim=c.dim, num_heads=c.num_heads, **attention
            )
        self.processor = nn.Sequential(
            *(
                Block(
                    c.dim,
                    c.num_heads,
                    c.hoods[i % len(c.hoods)],
                    c.mlp_ratio,
                    c.layer_scale,
                    c.dropout,
                    drop_path_of(c.drop_path, i, c.depth),
                    **attention,
                )
                for i in range(c.depth)
            )
        )
        self.norm = nn.LayerNorm(c.dim, device=device, dtype=dtype)
        self.decoder = PatchUnembed(c.grid, c.patch, c.dim, c.out_channels, device, dtype)
        nn.init.zeros_(self.decoder.projection.weight)
        nn.init.zeros_(self.decoder.projection.bias)

    @property
    def takes_key_mask(self) -> bool:
        """Whether tokens are the grid's points, so that points can be hidden from attention."""
        return self.config.hoods[0].query_grid == self.config.grid

    def forward(self, fields: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The fields predicted.

        ``key_mask``, ``[*grid.shape]`` or ``[B, *grid.shape]``, is True at the points that may be attended
        to; it needs :attr:`takes_key_mask`.
        """
        if key_mask is not None and not self.takes_key_mask:
            raise ValueError(
                f"key_mask hides points of the {self.config.grid!r}, but the blocks' tokens are those of the "
                f"{self.config.hoods[0].query_grid!r}: use patch=1 and neighborhoods on the grid itself"
            )
        check_input(fields, self.config.in_channels, self.grid)
        tokens = self.encoder(self.position_features(fields.movedim(1, -1)))
        given = self.to_processor(tokens)
        processed = given
        for block in self.processor:
            processed = block(processed, key_mask)
        tokens = tokens + self.from_processor(processed - given)
        out: Tensor = self.decoder(self.norm(tokens)).movedim(-1, 1)
        return fields[:, : self.config.out_channels] + out if self.config.residual else out

    def divide(self, shards: Shards) -> None:
        """Work on the points of one of many processes: see :func:`geoattn.parallel.parallelize`."""
        self.grid = shards.grid(self.grid)
