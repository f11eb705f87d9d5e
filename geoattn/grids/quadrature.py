"""Quadrature rules on [-1, 1] in z = sin(latitude), north to south; the weights sum to 2.

Each rule returns latitudes in degrees and weights, both symmetric to the bit about the equator,
and is the single point at the equator for n = 1. Costs grow as n log n (Clenshaw–Curtis, Fejér)
or n² with a small constant (Gauss, Lobatto: one vectorised Legendre recurrence per Newton step).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.fft import dct

from geoattn.grids.sphere import Floats

Rule = tuple[Floats, Floats]


def gauss_legendre(n: int) -> Rule:
    """Gauss–Legendre: the roots of P_n, exact to degree 2n − 1.

    Newton's method in colatitude θ, where the roots are nearly equally spaced; the weight is
    2 / (dP_n/dθ)², which is 2 / ((1 − z²) P_n'(z)²) without its cancellation at the poles.
    """
    k = np.arange(1.0, (n + 1) // 2 + 1)
    start: Floats = (k - 0.25) * np.pi / (n + 0.5)
    start += 1.0 / (8.0 * (n + 0.5) ** 2 * np.tan(start))
    if n % 2:
        start[-1] = np.pi / 2

    def correction(theta: Floats) -> Floats:
        value, slope = _legendre(n, theta)
        return value / slope

    theta = _newton(start, correction, n)
    return _mirrored(theta, 2.0 / _legendre(n, theta)[1] ** 2, n)


def gauss_lobatto(n: int) -> Rule:
    """Gauss–Lobatto: both poles and the extrema of P_{n−1}, exact to degree 2n − 3.

    The weights are 2 / (n (n − 1) P_{n−1}(z)²).
    """
    if n == 1:
        return np.zeros(1), np.full(1, 2.0)
    degree = n - 1
    k = np.arange(1.0, (n - 1) // 2 + 1)
    start: Floats = (k + 0.25) * np.pi / (degree + 0.5)
    start -= 3.0 / (8.0 * (degree + 0.5) ** 2 * np.tan(start))
    if n % 2:
        start[-1:] = np.pi / 2

    def correction(theta: Floats) -> Floats:  # the slope's own derivative is Legendre's equation
        value, slope = _legendre(degree, theta)
        return slope / (-slope / np.tan(theta) - degree * (degree + 1) * value)

    theta = np.append(0.0, _newton(start, correction, n - 2))
    values = np.append(1.0, _legendre(degree, theta[1:])[0])
    return _mirrored(theta, 2.0 / (n * degree * values**2), n)


def clenshaw_curtis(n: int) -> Rule:
    """Clenshaw–Curtis: equal steps of latitude with both poles, exact to degree n − 1.

    The weights integrate the Chebyshev interpolant term by term: a cosine transform of the
    integrals of T_k (Waldvogel 2006, doi:10.1007/s10543-006-0045-4).
    """
    if n == 1:
        return np.zeros(1), np.full(1, 2.0)
    weights = dct(_chebyshev_integrals(n), type=1) / (n - 1)
    weights[[0, -1]] *= 0.5
    return 90.0 * np.arange(n - 1, -n, -2) / (n - 1), _symmetric(weights)


def fejer(n: int) -> Rule:
    """Fejér's first rule: equal steps of latitude, half a step off the poles, exact to degree n − 1."""
    weights = dct(_chebyshev_integrals(n), type=3) / n
    return 90.0 * np.arange(n - 1, -n, -2) / n, _symmetric(weights)


def midpoint_edges(lat: Floats) -> Floats:
    """Degrees where rows at any monotonic latitudes meet: between neighbors, at both poles, ``[n + 1]``."""
    inner = 0.5 * (lat[1:] + lat[:-1])
    north_first = len(lat) < 2 or lat[0] > lat[-1]
    ends = (90.0, -90.0) if north_first else (-90.0, 90.0)
    return np.concatenate((ends[:1], inner, ends[1:]))


def midpoint_cells(lat: Floats) -> Floats:
    """Weights of rows at any monotonic latitudes: the zones between midpoints, up to both poles."""
    edges = np.radians(midpoint_edges(lat))
    # the difference of two sines as a product, which keeps its accuracy near the poles
    zones = 2.0 * np.cos(0.5 * (edges[1:] + edges[:-1])) * np.sin(0.5 * np.abs(np.diff(edges)))
    return np.asarray(zones * (2.0 / zones.sum()))


def _legendre(n: int, theta: Floats) -> Rule:
    """P_n(cos θ) and its derivative in θ.

    The three-term recurrence for the differences P_k − P_{k−1}, in 1 − cos θ = 2 sin²(θ/2), which
    stays accurate near the pole where the plain recurrence cancels.
    """
    fall = 2.0 * np.sin(0.5 * theta) ** 2
    value, step = np.ones_like(theta), np.zeros_like(theta)
    for k in range(n):
        step = (k * step - (2 * k + 1) * fall * value) / (k + 1)
        value = value + step
    return value, n * (step - fall * value) / np.sin(theta)


def _newton(theta: Floats, correction: Callable[[Floats], Floats], roots: int) -> Floats:
    for _ in range(10):
        delta = correction(theta)
        theta = theta - delta
        # quadratic convergence: after a change this small the next one is below round-off
        if not len(delta) or np.abs(delta).max() * max(roots, 1) < 1e-9:
            break
    return theta


def _mirrored(theta: Floats, weights: Floats, n: int) -> Rule:
    """The full rule from colatitudes and weights of the northern half, the equator included."""
    lat = 90.0 - np.degrees(theta)
    if n % 2:
        lat[-1] = 0.0
    south = slice(n // 2 - 1, None, -1) if n > 1 else slice(0, 0)
    lat = np.concatenate((lat, -lat[south]))
    return lat, _symmetric(np.concatenate((weights, weights[south])))


def _symmetric(weights: Floats) -> Floats:
    weights = 0.5 * (weights + weights[::-1])
    return np.asarray(weights * (2.0 / weights.sum()))


def _chebyshev_integrals(n: int) -> Floats:
    """Integrals of T_0 … T_{n−1} over [-1, 1]."""
    integrals = np.zeros(n)
    even = np.arange(0, n, 2)
    integrals[::2] = 2.0 / (1.0 - even.astype(np.float64) ** 2)
    return integrals
