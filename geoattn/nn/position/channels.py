"""Relative position that respects the geometry, carried by the channels of queries and keys.

Such a scheme either appends channels, so that the extra part of q·k is a learned function of where the two
points lie, or rotates the channels there are. No kernel knows of it, it works between any two points, and
its symmetry is that of the functions used: exact under rotations of a sphere (``Harmonic``), under those
about its axis alone (``Directional``), and under translations of a plane (``Fourier``, ``Rotary``).
"""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from geoattn.grids import Cartesian, Grid
from geoattn.grids.harmonics import real_spherical_harmonics, wave_periods
from geoattn.grids.sphere import Floats
from geoattn.nn.position.base import Position
from geoattn.nn.table import Table


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Harmonic(Position, kind="harmonic"):
    """A learned function of the great-circle angle γ, exactly equivariant under rotation.

    Each head adds f_h(γ) = Σ_l a_hl · (2l + 1) / 4π · P_l(cos γ), 1 ≤ l ≤ ``degree``, to the
    score, with learned a_hl of either sign that begin at 0. By the addition theorem it is a
    product of spherical harmonics of the two points: heads gain degree · (degree + 2) channels.
    Degree 0 would add one constant to all scores of a query, which the softmax ignores. On a
    product of grids with one sphere, γ is the angle on that sphere.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
    >>> ga.nn.Attention(16, 2, hood, position=ga.nn.Harmonic(degree=6))(torch.randn(1, 8, 16, 16)).shape
    torch.Size([1, 8, 16, 16])
    """

    degree: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.degree < 1:
            raise ValueError(f"degree must be at least 1, got {self.degree}")

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        pair = query_grid, key_grid
        query, key = (
            real_spherical_harmonics(_unit_vectors("harmonic", grid, pair), self.degree)[:, 1:]
            for grid in pair
        )
        degrees = np.repeat(np.arange(self.degree), 2 * np.arange(1, self.degree + 1) + 1)
        return ProductBias(query[None], key, degrees, num_heads, query_grid, key_grid)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Directional(Position, kind="directional"):
    """A direction in which each head looks: with several of them a block can take gradients.

    Each head adds ``slope`` · (a_h sin γ cos α + b_h sin γ sin α) to the score, for a key at
    great-circle angle γ, in a direction α north of east as the query sees it. It is a linear function
    of the displacement in the query's tangent plane. The learned (a_h, b_h) begin as unit vectors, spread
    evenly over the heads. Exactly equivariant under rotation about the axis, the symmetry of a
    rotating planet; at a pole itself, where no direction is east, longitude 0 decides. Heads gain
    3 channels. On a product of grids with one sphere, the displacement is that on the sphere.

    Parameters
    ----------
    slope
        Score per radian; about 3 over the radius of the neighborhood is a clear preference.

    Examples
    --------
    >>> hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
    >>> ga.nn.Attention(16, 2, hood, position="directional")(torch.randn(1, 8, 16, 16)).shape
    torch.Size([1, 8, 16, 16])
    """

    slope: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.slope < np.inf:
            raise ValueError(f"slope must be positive and finite, got {self.slope}")

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        pair = query_grid, key_grid
        query, key = (_unit_vectors("directional", grid, pair) for grid in pair)
        angles = 2.0 * np.pi * np.arange(num_heads) / num_heads
        return ProductBias(
            self.slope * np.stack(_east_and_north(query)),
            key,
            np.zeros(3, dtype=int),
            num_heads,
            query_grid,
            key_grid,
            start=np.stack((np.cos(angles), np.sin(angles)), axis=-1)[..., None],
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Fourier(Position, kind="fourier"):
    """A learned function of the displacement x − y on a plane, exactly equivariant under translation.

    Each head adds f_h(x − y) = Σ_n a_hn cos(κ_n·(x − y)) + b_hn sin(κ_n·(x − y)) to the score,
    over one of each ± pair of wave vectors with |n_axis| ≤ ``wavenumber`` on every axis;
    a and b are learned and begin at 0. Waves fit a periodic axis a whole number of times; on an
    open axis of length L the period is 2L. Heads gain (2 · wavenumber + 1)^axes − 1 channels.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    >>> ga.nn.Attention(16, 2, hood, position=ga.nn.Fourier(wavenumber=1))(torch.randn(1, 8, 8, 16)).shape
    torch.Size([1, 8, 8, 16])
    """

    wavenumber: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wavenumber < 1:
            raise ValueError(f"wavenumber must be at least 1, got {self.wavenumber}")

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        query_plane, key_plane, periods = _one_plane("fourier", query_grid, key_grid)
        span = range(-self.wavenumber, self.wavenumber + 1)
        waves = np.array([n for n in product(span, repeat=len(periods)) if n > (0,) * len(periods)])
        query, key = (_phases(g, periods, waves.T) for g in (query_plane, key_plane))
        query_tables = np.stack(
            (
                np.concatenate((np.cos(query), np.sin(query)), axis=-1),
                np.concatenate((np.sin(query), -np.cos(query)), axis=-1),
            )
        )
        key_table = np.concatenate((np.cos(key), np.sin(key)), axis=-1)
        groups = np.tile(np.arange(len(waves)), 2)
        return ProductBias(query_tables, key_table, groups, num_heads, query_grid, key_grid)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rotary(Position, kind="rotary"):
    """Channel pairs turned by angles proportional to the coordinates of a plane (Su et al. 2021).

    Pairs are dealt to the axes in turn. Along each axis the wavenumbers grow geometrically from
    one wave per period to one radian per cell of the finer grid; on a periodic axis they are
    rounded to whole numbers, so that the score is exactly periodic. Adds no channel and no
    parameter. The score depends on x − y only, given the channels before rotation.

    Examples
    --------
    >>> hood = ga.window(ga.grids.cartesian(32), 9, causal=True)
    >>> ga.nn.Attention(16, 2, hood, position="rotary")(torch.randn(1, 32, 16)).shape
    torch.Size([1, 32, 16])
    """

    def module(self, query_grid: Grid, key_grid: Grid, num_heads: int, head_dim: int) -> nn.Module:
        query_plane, key_plane, periods = _one_plane("rotary", query_grid, key_grid)
        axes = len(periods)
        if head_dim % 2 or head_dim < 2 * axes:
            raise ValueError(
                "position 'rotary' needs an even head_dim "
                f"of at least {2 * axes} on {axes} axes, got {head_dim}"
            )
        pairs = np.arange(head_dim // 2)
        waves = np.zeros((axes, len(pairs)))
        for axis, period in enumerate(periods):
            own = pairs[axis::axes]
            spacing = min(query_plane.spacing[axis], key_plane.spacing[axis])
            highest = max(1.0, period / (2.0 * np.pi * spacing))
            waves[axis, own] = np.geomspace(1.0, highest, len(own))
            if query_plane.periodic[axis]:
                waves[axis, own] = np.rint(waves[axis, own])
        query, key = (_phases(g, periods, waves) for g in (query_plane, key_plane))
        return Rotation(query, key, query_grid, key_grid)


class ProductBias(nn.Module):
    """Adds Σ_n Σ_f c[h, n, group(f)] · query[n, i, f] · key[j, f] to the score of head h.

    Parameters
    ----------
    query
        Functions of the queries, ``[terms, Nq, features]``.
    key
        Functions of the keys, ``[Nk, features]``; shared by all heads.
    groups
        Which coefficient each feature takes, ``[features]``, numbered from 0.
    start
        The coefficients at first, ``[heads, terms, groups]``; zeros by default.
    """

    tokenwise = True

    def __init__(
        self,
        query: Floats,
        key: Floats,
        groups: np.ndarray,
        num_heads: int,
        query_grid: Grid,
        key_grid: Grid,
        start: Floats | None = None,
    ) -> None:
        super().__init__()
        terms, _, features = query.shape
        self.coefficient = nn.Parameter(torch.zeros(num_heads, terms, int(groups.max()) + 1))
        if start is not None:
            with torch.no_grad():
                self.coefficient.copy_(torch.from_numpy(start))
        self.groups = Table(groups)
        self.query = Table(query.reshape(terms, *query_grid.shape, 1, features), query_grid, axis=1)
        self.key = Table(key.reshape(*key_grid.shape, 1, features), key_grid)

    def forward(self, q: Tensor, k: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        # The operator multiplies q·k by scale, of each head; the bias is to arrive unscaled.
        divisor = scale.reshape(-1, 1) if isinstance(scale, Tensor) else scale
        coefficient = self.coefficient[:, :, self.groups()].transpose(0, 1) / divisor
        query = self.query()[0] * coefficient[0]
        for term in range(1, len(coefficient)):
            query = query + self.query()[term] * coefficient[term]
        query = query.to(q.dtype).expand(*q.shape[:-1], -1)
        key = self.key().to(k.dtype).expand(*k.shape[:-1], -1)
        return torch.cat((q, query), dim=-1), torch.cat((k, key), dim=-1)


class Rotation(nn.Module):
    """Turns channel pair p of every query and key by its angle, ``[tokens, pairs]``."""

    tokenwise = True

    def __init__(self, query: Floats, key: Floats, query_grid: Grid, key_grid: Grid) -> None:
        super().__init__()
        self.query = Table(_cos_sin(query).reshape(2, *query_grid.shape, 1, -1), query_grid, axis=1)
        self.key = Table(_cos_sin(key).reshape(2, *key_grid.shape, 1, -1), key_grid, axis=1)

    def forward(self, q: Tensor, k: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor]:
        return rotate_pairs(q, *self.query().to(q.dtype)), rotate_pairs(k, *self.key().to(k.dtype))


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x[p], x[p + D/2]) of the last axis by the angles with this cosine and sine."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def _cos_sin(angles: Floats) -> Floats:
    return np.stack((np.cos(angles), np.sin(angles)))


def _unit_vectors(name: str, grid: Grid, pair: tuple[Grid, Grid]) -> Floats:
    """``[N, 3]`` of one of a pair of grids."""
    if not _on_a_sphere(grid):
        raise ValueError(f"position {name!r} needs points on a sphere, got {grid!r}; {_instead(pair)}")
    xyz: Floats = grid.xyz  # type: ignore[attr-defined]
    return xyz.reshape(-1, 3)


def _on_a_sphere(grid: Grid) -> bool:
    return hasattr(grid, "xyz")  # spheres have it, and products with one sphere


def _instead(pair: tuple[Grid, Grid]) -> str:
    """What to use where a scheme does not fit the grids of queries and keys."""
    if all(_on_a_sphere(grid) for grid in pair):
        return "on spheres use position='harmonic' or 'directional'"
    if pair[0] == pair[1] and isinstance(pair[0], Cartesian):
        return "on planes use position='fourier' or 'rotary'"
    return "between other grids use position=None"


def _east_and_north(xyz: Floats) -> tuple[Floats, Floats]:
    """Unit tangent vectors ``[N, 3]`` at points ``[N, 3]``; at the poles those of longitude 0."""
    x, y, z = xyz.T
    flat = np.hypot(x, y)
    pole = flat < 1e-12
    cos, sin = np.where(pole, 1.0, x), np.where(pole, 0.0, y)
    cos, sin = (part / np.where(pole, 1.0, flat) for part in (cos, sin))
    east = np.stack((-sin, cos, np.zeros_like(z)), axis=-1)
    north = np.stack((-z * cos, -z * sin, flat), axis=-1)
    return east, north


def _one_plane(name: str, query_grid: Grid, key_grid: Grid) -> tuple[Cartesian, Cartesian, Floats]:
    """Both grids as planes, with the periods that they share."""
    if not (isinstance(query_grid, Cartesian) and isinstance(key_grid, Cartesian)):
        grid = key_grid if isinstance(query_grid, Cartesian) else query_grid
        raise ValueError(
            f"position {name!r} needs a cartesian grid, got {grid!r}; {_instead((query_grid, key_grid))}"
        )
    periods, key_periods = wave_periods(query_grid), wave_periods(key_grid)
    if query_grid.periodic != key_grid.periodic or not np.allclose(periods, key_periods, rtol=1e-9):
        raise ValueError(
            f"position {name!r} needs two grids of the same extent and periodicity, "
            f"got {query_grid!r} and {key_grid!r}; {_instead((query_grid, key_grid))}"
        )
    return query_grid, key_grid, periods


def _phases(grid: Cartesian, periods: Floats, waves: Floats) -> Floats:
    """2π Σ_axis coordinate[axis] / period[axis] · waves[axis, wave], ``[tokens, waves]``."""
    turns = (grid.coordinates / periods).reshape(grid.size, -1)
    return 2.0 * np.pi * (turns @ waves)
