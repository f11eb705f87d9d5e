"""Real spherical harmonics and Fourier modes: the smooth functions of position on a grid."""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from numpy.typing import ArrayLike

from geoattn.grids.base import Grid, SphericalGrid, require_grid
from geoattn.grids.cartesian import Cartesian
from geoattn.grids.checks import integer
from geoattn.grids.product import ProductGrid
from geoattn.grids.sphere import Floats


def real_spherical_harmonics(xyz: ArrayLike, degree: int) -> Floats:
    """Real orthonormal spherical harmonics of unit vectors, up to and including ``degree``.

    Column l² + l + m holds Y_lm for −l ≤ m ≤ l: cosines of m·longitude for m > 0, sines of
    |m|·longitude for m < 0, without the Condon–Shortley phase. Over the sphere
    ∫ Y_lm Y_l'm' = δ_ll' δ_mm', and by the addition theorem
    Σ_m Y_lm(x) Y_lm(y) = (2l + 1) / 4π · P_l(x·y).

    Parameters
    ----------
    xyz
        Unit vectors, ``[..., 3]``.
    degree
        Largest degree l.

    Returns
    -------
    ``[..., (degree + 1)²]`` in float64.

    Notes
    -----
    Y_lm = A_lm(z) · Re or Im (x + iy)^m, where A_lm follows the normalised three-term recurrence
    in l at fixed m (Holmes & Featherstone 2002, eqs. 11–13, with sin^m θ taken out). It needs no
    angle, so poles are points like any other.

    Examples
    --------
    >>> ga.grids.real_spherical_harmonics([[0.0, 0.0, 1.0]], 1).round(3)
    array([[0.282, 0.   , 0.489, 0.   ]])
    """
    points, degree = np.asarray(xyz, dtype=np.float64), integer("degree", degree)
    if points.shape[-1:] != (3,) or degree < 0:
        raise ValueError(
            f"xyz must be unit vectors [..., 3] and degree at least 0, got shape {points.shape} and {degree}"
        )
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    out = np.empty((*z.shape, (degree + 1) ** 2))
    power = np.ones_like(z, dtype=np.complex128)  # (x + iy)^m
    sectoral = np.sqrt(1.0 / (4.0 * np.pi))  # A_mm, a number
    for m in range(degree + 1):
        if m > 0:
            power = power * (x + 1j * y)
            sectoral *= np.sqrt((2.0 * m + 1.0) / (2.0 * m))
        cosine, sine = power.real, power.imag
        before, current = np.zeros_like(z), np.full_like(z, sectoral)
        for l in range(m, degree + 1):  # noqa: E741
            if l > m:
                grow = np.sqrt((4.0 * l * l - 1.0) / (l * l - m * m))
                shrink = np.sqrt(((l - 1.0) ** 2 - m * m) / (4.0 * (l - 1.0) ** 2 - 1.0)) if l > 1 else 0.0
                before, current = current, grow * (z * current - shrink * before)
            if m == 0:
                out[..., l * l + l] = current
            else:
                out[..., l * l + l + m] = np.sqrt(2.0) * current * cosine
                out[..., l * l + l - m] = np.sqrt(2.0) * current * sine
    return out


def wave_periods(grid: Cartesian) -> Floats:
    """The length along each axis after which functions of position repeat, ``[axes]``.

    The axis' own length where it is periodic. Twice the length where it is open, so that both
    ends remain far apart.
    """
    return np.multiply(grid.shape, grid.spacing) * np.where(grid.periodic, 1.0, 2.0)


def position_features(grid: Grid, degree: int) -> Floats:
    """Smooth functions of position on the grid, ``[*grid.shape, count]``, without the constant.

    On a sphere: real spherical harmonics of degree 1 to ``degree``, times √4π (mean square 1).
    On a plane: products over the axes of the first ``degree + 1`` Fourier functions of each axis
    (cosines and sines where it is periodic, cosines of half waves where it is open), of mean
    square 1. On spheres and on planes of two axes that makes (degree + 1)² − 1 features.
    On a product: those of its factors, one after the other. Degree 0 makes none.

    Examples
    --------
    >>> ga.grids.position_features(ga.grids.gaussian(8, 16), 2).shape
    (8, 16, 8)
    """
    require_grid("grid", grid)
    degree = integer("degree", degree)
    if degree < 0:
        raise ValueError(f"degree must be at least 0, got {degree}")
    return _features(grid, degree)


@singledispatch
def _features(grid: Grid, degree: int) -> Floats:
    raise TypeError(
        f"no smooth functions of position are known on {grid!r}; spheres and cartesian grids have them"
    )


@_features.register
def _(grid: SphericalGrid, degree: int) -> Floats:
    return real_spherical_harmonics(grid.xyz, degree)[..., 1:] * float(np.sqrt(4.0 * np.pi))


@_features.register
def _(grid: Cartesian, degree: int) -> Floats:
    phases = 2.0 * np.pi * grid.coordinates / wave_periods(grid)
    features: Floats = np.ones((*grid.shape, 1))
    for axis, periodic in enumerate(grid.periodic):
        phase = phases[..., axis]
        columns = [np.ones_like(phase)]
        for n in range(1, degree + 1):
            if not periodic:
                columns.append(np.sqrt(2.0) * np.cos(n * phase))
            else:
                wave = np.cos if n % 2 else np.sin
                columns.append(np.sqrt(2.0) * wave((n + 1) // 2 * phase))
        products = features[..., :, None] * np.stack(columns, axis=-1)[..., None, :]
        features = products.reshape(*grid.shape, -1)
    return features[..., 1:]


@_features.register
def _(grid: ProductGrid, degree: int) -> Floats:
    features, before = [], 0
    for factor in grid.factors:
        own = _features(factor, degree)
        after = len(grid.shape) - before - len(factor.shape)
        own = own.reshape((1,) * before + factor.shape + (1,) * after + own.shape[-1:])
        features.append(np.broadcast_to(own, (*grid.shape, own.shape[-1])))
        before += len(factor.shape)
    return np.concatenate(features, axis=-1)
