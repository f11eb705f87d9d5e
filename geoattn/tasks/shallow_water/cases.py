"""Standard test cases: each a solver (its rotation and orography) with an initial state.

Williamson, Drake, Hack, Jakob and Swarztrauber (1992), J. Comput. Phys. 102, 211–224: cases 2, 5 and 6.
Galewsky, Scott and Polvani (2004), Tellus 56A, 429–440: the barotropically unstable jet.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import LatLonGrid
from geoattn.tasks.shallow_water.solver import DAY, EARTH, Planet, ShallowWater


class Case(NamedTuple):
    """A solver and the state to start it from."""

    solver: ShallowWater
    state: Tensor


def _axes(grid: LatLonGrid) -> tuple[Tensor, Tensor]:
    radians = [torch.deg2rad(torch.from_numpy(axis.copy())) for axis in (grid.lat, grid.lon)]
    return radians[0], radians[1]


def steady_zonal_flow(grid: LatLonGrid, rotation_angle: float = 0.0, **options: Any) -> Case:
    """Williamson's case 2: solid-body flow in geostrophic balance, an exact steady solution.

    ``rotation_angle`` in degrees tilts flow and rotation together against the grid, over its poles at 90.
    ``options`` go to :class:`ShallowWater`.
    """
    solver = ShallowWater(grid, rotation_angle=rotation_angle, **options)
    planet = solver.planet
    lat, lon = _axes(grid)
    alpha = math.radians(rotation_angle)
    speed = 2 * math.pi * planet.radius / (12 * DAY)
    tilted = lat.sin() * math.cos(alpha) - lon.cos() * lat.cos() * math.sin(alpha)
    eastward = speed * (lat.cos() * math.cos(alpha) + lon.cos() * lat.sin() * math.sin(alpha))
    northward = -speed * lon.sin() * math.sin(alpha)
    geopotential = 2.94e4 - (planet.radius * planet.angular_velocity * speed + speed**2 / 2) * tilted**2
    return Case(solver, solver.from_wind(geopotential / planet.gravity, eastward, northward))


def cone(grid: LatLonGrid) -> Tensor:
    """The mountain of Williamson's case 5: heights in metres ``[*grid.shape]``, 2000 m at 30°N, 270°E."""
    lat, lon = _axes(grid)
    radius = math.pi / 9
    distance = ((lon - 1.5 * math.pi).square() + (lat - math.pi / 6).square()).sqrt().clamp(max=radius)
    return 2000 * (1 - distance / radius)


def mountain(grid: LatLonGrid, planet: Planet = EARTH, **options: Any) -> Case:
    """Williamson's case 5: a zonal flow of 20 m/s meets the conical mountain of :func:`cone`."""
    lat, _ = _axes(grid)
    solver = ShallowWater(grid, planet=planet, orography=cone(grid), **options)
    speed = 20.0
    slope = (planet.radius * planet.angular_velocity * speed + speed**2 / 2) / planet.gravity
    surface = 5960 - slope * lat.sin().square()
    # the depth is what remains above the orography that the solver has, the truncated one
    depth = surface.to(solver.orography) - solver.orography
    return Case(solver, solver.from_wind(depth, speed * lat.cos(), torch.zeros_like(lat)))


def rossby_haurwitz(grid: LatLonGrid, mean_depth: float = 8000.0, **options: Any) -> Case:
    """Williamson's case 6: a Rossby–Haurwitz wave of wavenumber 4 that travels eastward.

    ``mean_depth`` is his h0, the depth at the poles. In a deep fluid the wave keeps its shape and turns
    by (R(3 + R)ω − 2Ω) / ((1 + R)(2 + R)) rad/s, the solution of the nondivergent equation.
    """
    solver = ShallowWater(grid, **options)
    planet, wavenumber, rate = solver.planet, 4, 7.848e-6
    omega, turn, a, r = rate, rate, planet.radius, wavenumber
    spin = planet.angular_velocity
    lat, lon = _axes(grid)
    c, s = lat.cos(), lat.sin()
    eastward = a * omega * c + a * turn * c ** (r - 1) * (r * s**2 - c**2) * (r * lon).cos()
    northward = -a * turn * r * c ** (r - 1) * s * (r * lon).sin()
    steady = 0.5 * omega * (2 * spin + omega) * c**2 + 0.25 * turn**2 * (
        (r + 1) * c ** (2 * r + 2) + (2 * r**2 - r - 2) * c ** (2 * r) - 2 * r**2 * c ** (2 * r - 2)
    )
    once = (
        (2 * (spin + omega) * turn / ((r + 1) * (r + 2))) * c**r * ((r**2 + 2 * r + 2) - (r + 1) ** 2 * c**2)
    )
    twice = 0.25 * turn**2 * c ** (2 * r) * ((r + 1) * c**2 - (r + 2))
    geopotential = a**2 * (steady + once * (r * lon).cos() + twice * (2 * r * lon).cos())
    return Case(solver, solver.from_wind(mean_depth + geopotential / planet.gravity, eastward, northward))


def galewsky_jet(grid: LatLonGrid, perturbed: bool = True, **options: Any) -> Case:
    """The jet of Galewsky et al.: balanced, zonal, 80 m/s at 45°N, and barotropically unstable.

    The depth balances the wind by numerical integration of g ∂h/∂φ = −u (a f + u tanφ); its mean is 10 km.
    ``perturbed`` adds the bump 120 m · cosφ · exp(−(λ/α)²) · exp(−((π/4 − φ)/β)²) with α = 1/3 and
    β = 1/15, which sets the instability off.
    """
    solver = ShallowWater(grid, **options)
    lat, lon = _axes(grid)
    rows = np.radians(grid.lat_axis)
    eastward = torch.from_numpy(_jet(rows))[:, None].expand(grid.shape)
    depth = torch.from_numpy(_jet_depth(rows, solver.planet))[:, None].expand(grid.shape)
    depth = depth + 10_000.0 - grid.integrate(depth) / (4 * math.pi)
    if perturbed:
        from_meridian = torch.remainder(lon + math.pi, 2 * math.pi) - math.pi
        bump = (-(3 * from_meridian).square()).exp() * (-(15 * (math.pi / 4 - lat)).square()).exp()
        depth = depth + 120 * lat.cos() * bump
    return Case(solver, solver.from_wind(depth, eastward, torch.zeros_like(lat)))


_JET_SOUTH, _JET_NORTH, _JET_SPEED = math.pi / 7, math.pi / 2 - math.pi / 7, 80.0


def _jet(lat: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    inside = (lat > _JET_SOUTH) & (lat < _JET_NORTH)
    product = np.where(inside, (lat - _JET_SOUTH) * (lat - _JET_NORTH), -1.0)
    peak = math.exp(-4 / (_JET_NORTH - _JET_SOUTH) ** 2)
    return np.where(inside, _JET_SPEED / peak * np.exp(1 / product), 0.0)


def _jet_depth(
    rows: np.ndarray[Any, np.dtype[np.float64]], planet: Planet
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Depth on each row relative to the pole the rows start from: Gauss quadrature from row to row."""
    edges = np.concatenate((rows[:1], rows))
    nodes, weights = np.polynomial.legendre.leggauss(32)
    half = 0.5 * np.diff(edges)[:, None]
    lat = edges[:-1, None] + half * (1 + nodes)
    wind = _jet(lat)
    coriolis = 2 * planet.angular_velocity * np.sin(lat)
    slope = -wind * (planet.radius * coriolis + wind * np.tan(lat)) / planet.gravity
    return np.asarray(np.cumsum((half * weights * slope).sum(-1)))
