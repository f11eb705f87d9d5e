"""The model of an experiment, from a few numbers."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from geoattn.grids import LatLonGrid, patches
from geoattn.models import EncoderDecoderConfig, ModelConfig, TransformerConfig
from geoattn.nn import Angles, Offsets, Position
from geoattn.tasks.geometry import Setting, geometry, reaching


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A transformer on one grid, or an encoder–decoder on several.

    Parameters
    ----------
    geometry
        See :mod:`geoattn.tasks.geometry`.
    radius
        Degrees of the disc that a query sees; it doubles from stage to stage, as do the channels.
    dim, depth, num_heads
        Channels, blocks and heads; of the first stage, if there are several.
    patch
        Points along each side of a token's patch.
    stages
        1: the isotropic transformer. More: as many stages, each on patches of 2 of the one before.
    features
        Degree of the smooth functions of position that the model sees.
    position
        Relative position in attention: see :class:`geoattn.nn.Attention`. "relative" is a learned bias for
        every pair in any geometry: of its displacement in a window, and of its angle and bearing in a disc,
        in bins as wide as a row and sixteen sectors.
    """

    geometry: Setting = "sphere"
    radius: float = 20.0
    dim: int = 64
    depth: int = 4
    num_heads: int = 4
    patch: int = 1
    stages: int = 1
    features: int = 4
    position: Literal["harmonic", "directional", "relative"] | None = None

    def config(self, grid: LatLonGrid, in_channels: int, out_channels: int) -> ModelConfig:
        """The configuration on ``grid``."""
        tokens: Any = patches(grid, self.patch).grid
        position, made = self._position(tokens), []
        for stage in range(self.stages):
            made.append(geometry(self.geometry, tokens, self.radius * 2**stage))
            if stage + 1 < self.stages:
                tokens = patches(tokens, 2).grid
        hoods, key_weights = tuple(g.hood for g in made), made[0].key_weights
        if self.stages == 1:
            return TransformerConfig(
                grid,
                hoods,
                in_channels,
                out_channels,
                dim=self.dim,
                depth=self.depth,
                num_heads=self.num_heads,
                key_weights=key_weights,
                patch=self.patch,
                features=self.features,
                position=position,
                residual=False,
            )
        return EncoderDecoderConfig(
            grid,
            hoods,
            in_channels,
            out_channels,
            dims=tuple(self.dim * 2**stage for stage in range(self.stages)),
            depths=(self.depth,) * self.stages,
            num_heads=tuple(self.num_heads * 2**stage for stage in range(self.stages)),
            patches=(self.patch, *(2,) * (self.stages - 1)),
            decoder_dim=2 * self.dim,
            key_weights=key_weights,
            features=self.features,
            position=position,
        )

    def _position(self, tokens: LatLonGrid) -> str | Position | None:
        """The scheme of attention; radius and rows grow alike from stage to stage, and bins stay as wide."""
        if self.position != "relative":
            return self.position
        if not self.geometry.startswith("sphere"):
            return Offsets()
        return Angles(bins=max(reaching(tokens, self.radius)[0] // 2, 1), sectors=16)
