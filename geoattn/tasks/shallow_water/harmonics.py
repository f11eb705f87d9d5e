"""Spherical harmonic transforms of scalars and tangential vectors: a Fourier and a Legendre transform.

Our own, since they run on tensors of any device and dtype and pin no release of torch.
``benchmarks/transforms.py`` times them beside packages: many fields at once take less time than with
torch-harmonics or, up to T85, pyshtools; of a single field pyshtools is faster from T42 on, and ducc0, whose
licence is not ours, is many times faster.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import LatLonGrid, quadrature, real_spherical_harmonics
from geoattn.grids.sphere import Floats

#: rule of latitudes → degree to which its quadrature is exact on n of them
_EXACT_DEGREE: dict[Callable[[int], quadrature.Rule], Callable[[int], int]] = {
    quadrature.gauss_legendre: lambda nlat: 2 * nlat - 1,
    quadrature.gauss_lobatto: lambda nlat: 2 * nlat - 3,
    quadrature.clenshaw_curtis: lambda nlat: nlat - 1,
}


class Harmonics:
    """Transforms on the unit sphere between a lat-lon grid and triangularly truncated coefficients.

    Coefficients are complex, ``[..., degree, order]``, of orthonormal harmonics with the
    Condon–Shortley phase; orders above the degree are zero, negative orders follow from reality.

    Parameters
    ----------
    grid : LatLonGrid
        A grid whose latitudes are Gaussian, Lobatto, or equiangular with poles, from north to south.
    truncation : int, optional
        Highest degree T. By default the largest with 3T + 1 ≤ nlon and a quadrature exact to degree 3T.
    """

    def __init__(
        self,
        grid: LatLonGrid,
        truncation: int | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype}: the transforms run in torch.float64 or torch.float32")
        rule = _rule_of(grid)
        nlat, self.nlon = grid.shape
        exact = _EXACT_DEGREE[rule](nlat)
        if truncation is None:
            truncation = min((self.nlon - 1) // 3, exact // 3)
        largest = min((self.nlon - 1) // 2, exact // 2)
        if not 1 <= truncation <= largest:
            raise ValueError(
                f"truncation={truncation} does not fit {grid!r}, which resolves degrees 1 to {largest} "
                f"(to {min((self.nlon - 1) // 3, exact // 3)} free of aliasing)"
            )
        self.truncation = truncation

        def constant(values: Floats) -> Tensor:
            return torch.from_numpy(values).to(device=device, dtype=dtype)

        latitudes, weights = rule(nlat)
        tables = _legendre(np.radians(latitudes), truncation)
        self._values, self._slopes, self._turns = map(constant, tables)
        self._weights = constant(2 * np.pi * weights[:, None])
        degree = np.arange(truncation + 1.0)[:, None]
        self._inverse_eigenvalue = constant(-1 / np.where(degree > 0, degree * (degree + 1), np.inf))

    def analyse(self, field: Tensor) -> Tensor:
        """Coefficients ``[..., T + 1, T + 1]`` of a scalar ``[..., nlat, nlon]``."""
        return _along_latitude("...jmr,mjl->...lmr", self._waves(field), self._values)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """The scalar on the grid, ``[..., nlat, nlon]``."""
        return self._field(_along_latitude("...lmr,mjl->...jmr", coefficients, self._values))

    # _slopes are dP/dφ and _turns m P / cos φ of the Legendre functions P; the way from the wind is
    # integrated by parts (Bourke 1972, Monthly Weather Review 100, 683)

    def curl_and_divergence(self, wind: Tensor) -> Tensor:
        """Coefficients of the curl and the divergence of (u, v) ``[..., 2, nlat, nlon]``."""
        waves = self._waves(wind)
        of_u, of_v = _along_latitude("...jmr,mjl->...lmr", waves, self._slopes).unbind(-3)
        turned_u, turned_v = (1j * _along_latitude("...jmr,mjl->...lmr", waves, self._turns)).unbind(-3)
        return torch.stack((turned_v + of_u, turned_u - of_v), dim=-3)

    def wind(self, curl_and_divergence: Tensor) -> Tensor:
        """The inverse of :meth:`curl_and_divergence`: (u, v) on the grid."""
        potentials = self._inverse_eigenvalue * curl_and_divergence
        of_stream, of_potential = _along_latitude("...lmr,mjl->...jmr", potentials, self._slopes).unbind(-3)
        turned = 1j * _along_latitude("...lmr,mjl->...jmr", potentials, self._turns)
        turned_stream, turned_potential = turned.unbind(-3)
        return self._field(torch.stack((turned_potential - of_stream, turned_stream + of_potential), dim=-3))

    def _waves(self, field: Tensor) -> Tensor:
        """Weighted Fourier coefficients along each parallel, ``[..., nlat, T + 1]``."""
        waves: Tensor = torch.fft.rfft(field, norm="forward")[..., : self.truncation + 1]
        return self._weights * waves

    def _field(self, waves: Tensor) -> Tensor:
        field: Tensor = torch.fft.irfft(waves, n=self.nlon, norm="forward")
        return field


def _along_latitude(equation: str, x: Tensor, table: Tensor) -> Tensor:
    """A sum over latitudes or degrees of complex numbers with a real table, order by order."""
    return torch.view_as_complex(torch.einsum(equation, torch.view_as_real(x), table).contiguous())


def _legendre(lat: Floats, truncation: int) -> tuple[Floats, Floats, Floats]:
    """P, dP/dφ and m P / cos φ of orthonormal harmonics, each ``[order, latitude, degree]``.

    The latter two by recurrences in the order, which divide by nothing that vanishes at a pole::

        dP_l^m/dφ     = (√((l+m)(l−m+1)) P_l^{m−1} − √((l−m)(l+m+1)) P_l^{m+1}) / 2
        m P_l^m/cos φ = −√((2l+1)/(2l−1)) (√((l−m)(l−m−1)) P_{l−1}^{m+1} + √((l+m)(l+m−1)) P_{l−1}^{m−1}) / 2
    """
    size = truncation + 1
    xyz = np.stack((np.cos(lat), np.zeros_like(lat), np.sin(lat)), axis=-1)
    harmonics = real_spherical_harmonics(xyz, truncation)
    degree = np.arange(size)
    values = np.zeros((size + 2, len(lat), size))  # orders −1 to T + 1
    for order in range(size):
        columns = harmonics[:, degree[order:] * (degree[order:] + 1) + order]
        values[order + 1, :, order:] = columns * (1.0 if order == 0 else (-1) ** order / np.sqrt(2))
    values[0] = -values[2]
    lower, same, upper = values[:-2], values[1:-1], values[2:]
    m = degree[:, None, None]

    def root(x: Floats) -> Floats:
        root: Floats = np.sqrt(np.maximum(x, 0.0))
        return root

    slopes = root((degree + m) * (degree - m + 1.0)) * lower - root((degree - m) * (degree + m + 1.0)) * upper
    below = np.zeros((2, size, len(lat), size))  # of one degree less
    below[..., 1:] = np.stack((lower, upper))[..., :-1]
    turns = root((degree + m) * (degree + m - 1.0)) * below[0]
    turns += root((degree - m) * (degree - m - 1.0)) * below[1]
    turns *= -np.sqrt((2 * degree + 1.0) / np.maximum(2 * degree - 1.0, 1.0))
    inside = np.where(degree >= m, 0.5, 0.0)
    return same.copy(), inside * slopes, inside * np.where(m > 0, turns, 0.0)


def _rule_of(grid: LatLonGrid) -> Callable[[int], quadrature.Rule]:
    for rule in _EXACT_DEGREE if isinstance(grid, LatLonGrid) and len(grid.lat_axis) > 1 else ():
        if np.allclose(rule(len(grid.lat_axis))[0], grid.lat_axis, rtol=0, atol=1e-9):
            return rule
    raise ValueError(
        f"{grid!r} has no harmonic transform, which needs Gaussian, Lobatto or equiangular latitudes with "
        "poles from north to south: try ga.grids.gaussian(nlat, nlon)"
    )
