"""A transformer on any grid and any neighborhood: encode, process, decode."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from geoattn._value import Value
from geoattn.grids import Grid
from geoattn.neighborhoods import Neighborhood
from geoattn.nn import Block, Position, PositionFeatures


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TransformerConfig(Value, kind="transformer"):
    """Everything that defines a :class:`Transformer`; ``to_dict()`` gives JSON types.

    Parameters
    ----------
    grid
        Where the fields live.
    hoods
        The neighborhood of the processor's blocks, or a tuple of several that they take in turn.
    in_channels, out_channels
        Channels of the fields given and predicted.
    dim, depth, num_heads, num_kv_heads, mlp_ratio, qk_norm, position, layer_scale, dropout
        The processor: see :class:`geoattn.nn.Block` and :class:`geoattn.nn.Attention`.
    features
        Degree of the smooth functions of position that the encoder sees; 0 for none.
    residual
        Predict the change of the first ``out_channels`` of the input instead of their new value.
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
    position: str | Position | None = None
    layer_scale: float | None = None
    dropout: float = 0.0
    features: int = 4
    residual: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.hoods, Neighborhood):
            object.__setattr__(self, "hoods", (self.hoods,))
        super().__post_init__()
        if self.residual and self.out_channels > self.in_channels:
            raise ValueError(
                f"residual=True adds the change to the first out_channels of the input, but "
                f"out_channels {self.out_channels} exceeds in_channels {self.in_channels}"
            )
        for hood in self.hoods:
            if hood.query_grid != self.grid or hood.key_grid != self.grid:
                raise ValueError(f"{hood!r} must lead from {self.grid!r} to itself")

    def __repr__(self) -> str:
        size = f"{self.depth} blocks × {self.dim} channels"
        return f"transformer of {size} on {self.grid!r} over {self.hoods[0]!r}"


class Transformer(nn.Module):
    """Fields ``[B, in_channels, *grid.shape]`` to ``[B, out_channels, *grid.shape]``.

    The last layer starts at zero: with ``residual`` a new model is persistence.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = c = config
        self.position_features = PositionFeatures(c.grid, c.features)
        self.encoder = nn.Linear(c.in_channels + self.position_features.count, c.dim)
        self.processor = nn.Sequential(
            *(
                Block(
                    c.dim,
                    c.num_heads,
                    c.hoods[i % len(c.hoods)],
                    num_kv_heads=c.num_kv_heads,
                    mlp_ratio=c.mlp_ratio,
                    qk_norm=c.qk_norm,
                    position=c.position,
                    layer_scale=c.layer_scale,
                    dropout=c.dropout,
                )
                for i in range(c.depth)
            )
        )
        self.norm = nn.LayerNorm(c.dim)
        self.decoder = nn.Linear(c.dim, c.out_channels)
        nn.init.zeros_(self.decoder.weight)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, fields: Tensor) -> Tensor:
        expected = (self.config.in_channels, *self.config.grid.shape)
        if tuple(fields.shape[1:]) != expected:
            raise ValueError(
                f"fields must have shape [B, {', '.join(map(str, expected))}] on {self.config.grid!r}, "
                f"got {list(fields.shape)}"
            )
        tokens = self.encoder(self.position_features(fields.movedim(1, -1)))
        tokens = self.processor(tokens)
        change: Tensor = self.decoder(self.norm(tokens)).movedim(-1, 1)
        return fields[:, : self.config.out_channels] + change if self.config.residual else change
