"""Quadrature rules on [-1, 1] in z = sin(latitude), north to south; the weights sum to 2."""

from __future__ import annotations

from scipy.special import roots_legendre

from geoattn.grids.base import Floats


def gauss_legendre(n: int) -> tuple[Floats, Floats]:
    """Nodes z and weights of the Gauss–Legendre rule, exact to degree 2n − 1."""
    z, weights = roots_legendre(n)
    return z[::-1].copy(), weights[::-1] * (2.0 / weights.sum())
