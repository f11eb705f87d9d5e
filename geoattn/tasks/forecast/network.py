"""The transformer of a forecast, from a few words and numbers, on any grid of the sphere."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from geoattn.grids import LatLonGrid, SphericalGrid, patches
from geoattn.grids.spelling import from_words
from geoattn.models import TransformerConfig
from geoattn.models.sizes import TRANSFORMER_SIZES
from geoattn.neighborhoods import Neighborhood, geodesic
from geoattn.tasks.geometry import KeyWeights, Setting, geometry

#: how many points a disc reaches, where no radius is given
REACH = 3.2


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """A transformer on the grid of the data, or between it and a grid of its own.

    Parameters
    ----------
    grid
        Where the blocks work: a name of the catalogue, or as in healpix(16) or icosahedral(4); the data's own
        grid if it is left out, or that of its patches.
    geometry
        What a point sees: a disc on the sphere weighed by area (sphere) or not (sphere-unweighted), or a
        window of the latitude-longitude plane with as many keys (plane, plane-periodic) or of its reach
        (plane-reach, plane-periodic-reach).
    radius
        Degrees of the disc; one that reaches three points far if it is left out.
    size
        S, M or L (geoattn models lists them), which dim, depth and num_heads change.
    dim
        Channels of a token.
    depth
        Blocks of attention.
    num_heads
        Heads of attention.
    patch
        Points along each side of a token's patch, on grids that have patches.
    features
        Degree of the smooth functions of position that the model sees; 0 for none.
    position
        Relative position in attention: harmonic or directional.
    """

    grid: str | None = None
    geometry: Setting = "sphere"
    radius: float | None = None
    size: Literal["S", "M", "L"] = "S"
    dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    patch: int = 1
    features: int = 4
    position: Literal["harmonic", "directional"] | None = None

    def config(self, grid: SphericalGrid, in_channels: int, out_channels: int) -> TransformerConfig:
        """The configuration for fields on ``grid``.

        Raises
        ------
        ValueError
            If the geometry is that of a plane and the blocks' grid has no rows and columns.
        """
        tokens = patches(grid, self.patch).grid if self.patch > 1 else grid
        if self.grid is not None:
            tokens = from_words(self.grid)
        if not isinstance(tokens, SphericalGrid):
            raise ValueError(f"the blocks work on a grid of the sphere, not on the {tokens!r}")
        side = np.degrees(np.sqrt(np.asarray(tokens.weights).mean()))
        radius = self.radius if self.radius is not None else REACH * float(side)
        if self.geometry.startswith("sphere"):
            hood: Neighborhood = geodesic(tokens, radius=radius)
            key_weights: KeyWeights = "quadrature" if self.geometry == "sphere" else None
        elif isinstance(tokens, LatLonGrid):
            hood, key_weights = geometry(self.geometry, tokens, radius)
        else:
            raise ValueError(
                f"a window of the plane needs rows and columns, and the blocks work on the {tokens!r}: take "
                "geometry='sphere'"
            )
        shape = dict(TRANSFORMER_SIZES[self.size])
        own = {"dim": self.dim, "depth": self.depth, "num_heads": self.num_heads}
        shape |= {name: value for name, value in own.items() if value is not None}
        return TransformerConfig(
            grid,
            (hood,),
            in_channels,
            out_channels,
            key_weights=key_weights,
            patch=self.patch,
            features=self.features,
            position=self.position,
            residual=False,
            **shape,
        )
