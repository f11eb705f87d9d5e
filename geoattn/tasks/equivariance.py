"""How far attention on a grid is from attention on the sphere: under rotation, and under refinement.

An attention layer is made of fixed projections of a band-limited field of tokens, so that it stands for
one operator on the continuous sphere; on a grid it is a quadrature of that operator. The field is turned
exactly, by its spherical harmonics at turned points, and queries may lie anywhere, so that nothing is
ever interpolated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from geoattn.functional import attention
from geoattn.grids import SphericalGrid, gaussian, icosahedral, points, real_spherical_harmonics, regional
from geoattn.grids.sphere import Floats, lat_lon
from geoattn.neighborhoods import Neighborhood, everything, geodesic
from geoattn.relations import angles

Weights = Literal["quadrature"] | None


@dataclasses.dataclass(frozen=True)
class BandLimitedAttention:
    """Attention with fixed projections over a random field of tokens.

    Parameters
    ----------
    degree
        Highest degree of the spherical harmonics of the field.
    channels, heads
        Of the layer.
    radius
        Of the disc that a query sees, in degrees; None for the whole sphere.
    sharpness
        Root mean square of the scores, about.
    seed
        Decides field, projections and biases.
    bins, sectors
        Of a bias on the score by the angle between query and key, with a number for each bin and head; more
        than one sector counts the bearing of the key as well, which no rotation but those about the axis
        keeps. No bins, no bias.
    """

    degree: int = 4
    channels: int = 8
    heads: int = 2
    radius: float | None = None
    sharpness: float = 1.0
    seed: int = 0
    bins: int = 0
    sectors: int = 1

    def tokens(self, xyz: Floats) -> Tensor:
        """The field at unit vectors ``[..., 3]``, float64 ``[..., channels]`` of mean square 1."""
        random = np.random.default_rng([self.seed, 0])
        size = (self.degree + 1) ** 2
        coefficients = random.standard_normal((size, self.channels)) * np.sqrt(4 * np.pi / size)
        return torch.from_numpy(real_spherical_harmonics(xyz, self.degree) @ coefficients)

    def at(
        self,
        queries: Floats,
        keys: SphericalGrid,
        rotation: Floats | None = None,
        key_weights: Weights = "quadrature",
    ) -> Tensor:
        """The layer's result at unit vectors ``queries [n, 3]``, ``[n, channels]``, keys on a grid.

        With a ``rotation``, an orthogonal matrix ``[3, 3]``, the field is turned by it first; keys and
        queries stay where they are.
        """
        turned = np.eye(3) if rotation is None else rotation  # x @ turned is the inverse's x
        lat, lon = lat_lon(queries)
        places = points(lat, lon, areas=np.ones(len(queries)))
        hood: Neighborhood = everything(places, keys)
        if self.radius is not None:
            hood = geodesic(places, keys, radius=self.radius)
        random = np.random.default_rng([self.seed, 1])
        project = torch.from_numpy(random.standard_normal((3, self.channels, self.channels)))
        query_tokens = self.tokens(queries @ turned)
        key_tokens = self.tokens(keys.xyz.reshape(-1, 3) @ turned)
        q, k, v = (
            (tokens @ matrix / self.channels**0.5).unflatten(-1, (self.heads, -1))
            for tokens, matrix in zip((query_tokens, key_tokens, key_tokens), project, strict=True)
        )
        k, v = (t.reshape(1, *keys.shape, *t.shape[1:]) for t in (k, v))
        scale = self.sharpness * (self.heads / self.channels) ** 0.5
        relation = bias = None
        if self.bins:
            edges = np.linspace(0.0, 180.0 if self.radius is None else self.radius, self.bins + 1)
            relation = angles(hood, edges, self.sectors)
            table = np.random.default_rng([self.seed, 2]).standard_normal((self.heads, relation.count))
            bias = torch.from_numpy(self.sharpness * table)
        out = attention(
            q[None],
            k,
            v,
            hood,
            scale=scale,
            key_weights=key_weights,
            relation=relation,
            relation_bias=bias,
        )
        return out[0].flatten(1)


def equivariance_error(
    layer: BandLimitedAttention,
    grid: SphericalGrid,
    rotation: Floats,
    key_weights: Weights = "quadrature",
    queries: SphericalGrid | None = None,
) -> float:
    """How differently the layer acts before and after a rotation: relative root mean square.

    Turning the field and then attending at x is compared with attending at the point that x was turned
    from. On the continuous sphere the two are one.
    """
    places = _points(queries)
    turned_first = layer.at(places, grid, rotation, key_weights)
    turned_last = layer.at(places @ rotation, grid, None, key_weights)
    return relative_error(turned_first, turned_last)


@dataclasses.dataclass(frozen=True)
class Cap:
    """The part of a sphere within ``radius`` degrees of a point."""

    lat: float
    lon: float
    radius: float

    def depth(self, xyz: Floats) -> Floats:
        """Degrees from unit vectors ``[..., 3]`` to the rim; negative outside."""
        lat, lon = np.radians(self.lat), np.radians(self.lon)
        center = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        depth: Floats = self.radius - np.degrees(np.arccos(np.clip(xyz @ center, -1.0, 1.0)))
        return depth

    def part(self, grid: SphericalGrid) -> SphericalGrid:
        """The points of a grid that lie in it, with their weights."""
        inside = self.depth(grid.xyz).reshape(-1) >= 0
        lat, lon, areas = (x.reshape(-1)[inside] for x in (grid.lat, grid.lon, grid.weights))
        return regional(lat, lon, areas=areas)


def equivariance_errors_in(
    layer: BandLimitedAttention,
    grid: SphericalGrid,
    rotation: Floats,
    region: Cap,
    queries: SphericalGrid | None = None,
) -> tuple[float, float]:
    """The equivariance errors of discs that are cut off at the rim of a region: deep inside, and at the rim.

    Keys are those of the grid in the region, which is not turned with the field. A query lies deep inside if
    its disc does, both where it is and where it is turned from: then nothing is cut off. All other queries
    that lie inside in both places are at the rim.

    Raises
    ------
    ValueError
        If no query is of either kind.
    """
    if layer.radius is None:
        raise ValueError("radius=None sees the whole sphere, and no query lies deep inside a region")
    places = _points(queries)
    depth = np.minimum(region.depth(places), region.depth(places @ rotation))
    places, depth = places[depth >= 0], depth[depth >= 0]
    inside = torch.from_numpy(depth > layer.radius)
    if inside.all() or not inside.any():
        raise ValueError(f"{int(inside.sum())} of {len(inside)} queries lie {layer.radius}° or more inside")
    keys = region.part(grid)
    turned_first, turned_last = layer.at(places, keys, rotation), layer.at(places @ rotation, keys)
    spread = (turned_last - turned_last.mean(0)).square().mean().sqrt()
    difference = (turned_first - turned_last).square()
    deep, rim = (float(difference[which].mean().sqrt() / spread) for which in (inside, ~inside))
    return deep, rim


def refinement_error(
    layer: BandLimitedAttention,
    grid: SphericalGrid,
    exact: Tensor,
    key_weights: Weights = "quadrature",
    queries: SphericalGrid | None = None,
) -> float:
    """How far the layer on a grid is from the continuous one: relative root mean square.

    ``exact`` is the layer's result at the same queries: see :func:`continuous`.
    """
    return relative_error(layer.at(_points(queries), grid, None, key_weights), exact)


def continuous(layer: BandLimitedAttention, nlat: int, queries: SphericalGrid | None = None) -> Tensor:
    """The layer with keys on a Gaussian grid of ``nlat`` rows, fine enough to stand for the sphere.

    Over the whole sphere some tens of rows are exact to rounding. A disc's edge cuts cells, whatever the
    rule, so that discs need many more rows than the grids that are measured.
    """
    return layer.at(_points(queries), gaussian(nlat, 2 * nlat))


def order_of_convergence(sizes: Sequence[int], errors: Sequence[float]) -> float:
    """The slope p of error ~ spacing^p through all measurements; a sphere's spacing is 1/√points."""
    slope, _ = np.polyfit(-0.5 * np.log(np.asarray(sizes, float)), np.log(np.asarray(errors)), 1)
    return float(slope)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of the deviation from the mean of ``expected``."""
    spread = expected - expected.mean(0)
    return float((found - expected).square().mean().sqrt() / spread.square().mean().sqrt())


def _points(queries: SphericalGrid | None) -> Floats:
    """Nearly even points that no lat-lon or HEALPix grid shares."""
    grid = icosahedral(2) if queries is None else queries
    tilt, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))
    points: Floats = grid.xyz.reshape(-1, 3) @ tilt
    return points
