"""Spherical harmonic transforms of scalars and tangential vectors, on torch-harmonics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoattn.grids import LatLonGrid


def load_torch_harmonics() -> Any:
    """The torch-harmonics package.

    Raises
    ------
    ImportError
        If it is missing, with the command that installs it.
    """
    try:
        import torch_harmonics
    except ImportError as reason:
        raise ImportError(
            "the shallow-water solver needs torch-harmonics, which could not be imported "
            f'({reason}): pip install "geoattn[harmonics,train,xarray,plot]"'
        ) from reason
    return torch_harmonics


#: torch-harmonics' name of a set of latitudes → degree to which its quadrature is exact on n of them
_EXACT_DEGREE = {
    "legendre-gauss": lambda nlat: 2 * nlat - 1,
    "lobatto": lambda nlat: 2 * nlat - 3,
    "equiangular": lambda nlat: nlat - 1,
}


class Harmonics:
    """Transforms on the unit sphere between a lat-lon grid and triangularly truncated coefficients.

    Coefficients are complex, ``[..., degree, order]``, of orthonormal harmonics with the
    Condon–Shortley phase; orders above the degree are zero, negative orders follow from reality.

    Parameters
    ----------
    grid : LatLonGrid
        A grid whose latitudes torch-harmonics has: Gaussian, Lobatto, equiangular with poles.
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
        package = load_torch_harmonics()
        rule = _rule_of(grid)
        nlat, nlon = grid.shape
        exact = _EXACT_DEGREE[rule](nlat)
        if truncation is None:
            truncation = min((nlon - 1) // 3, exact // 3)
        largest = min((nlon - 1) // 2, exact // 2)
        if not 1 <= truncation <= largest:
            raise ValueError(
                f"truncation={truncation} does not fit {grid!r}, which resolves degrees 1 to {largest} "
                f"(to {min((nlon - 1) // 3, exact // 3)} free of aliasing)"
            )
        self.truncation = truncation

        self._analyse, self._synthesise, self._analyse_vector, self._synthesise_vector = (
            getattr(package, name)(nlat, nlon, lmax=truncation + 1, mmax=truncation + 1, grid=rule).double()
            for name in ("RealSHT", "InverseRealSHT", "RealVectorSHT", "InverseRealVectorSHT")
        )
        degree = torch.arange(truncation + 1, dtype=torch.float64)[:, None]
        self._eigenvalue = -degree * (degree + 1) / self._round_trip()
        self._inverse_eigenvalue = torch.where(degree > 0, -1 / (degree * (degree + 1)), 0.0)
        for name, part in vars(self).items():
            if name != "truncation":
                setattr(self, name, part.to(device=device, dtype=dtype))

    def _round_trip(self) -> Tensor:
        """What analysis after synthesis of a vector multiplies each degree by: 1, but for rounding.

        torch-harmonics 0.9.3 rounds the 1/l(l+1) in its analysis to single precision. In double
        precision that 6e-8 would be the largest error of all, and steady states would drift.
        """
        size = self.truncation + 1
        zonal = torch.zeros(2, size, size, dtype=torch.complex128)
        zonal[:, 1:, 0] = 1
        factor = self._analyse_vector(self._synthesise_vector(zonal))[0, :, :1].real
        factor[0] = 1
        return factor  # type: ignore[no-any-return]

    def analyse(self, field: Tensor) -> Tensor:
        """Coefficients ``[..., T + 1, T + 1]`` of a scalar ``[..., nlat, nlon]``."""
        return self._analyse(field)  # type: ignore[no-any-return]

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """The scalar on the grid, ``[..., nlat, nlon]``."""
        return self._synthesise(coefficients)  # type: ignore[no-any-return]

    # torch-harmonics splits a vector (southward, eastward) into a gradient and a rotated gradient. Given
    # (eastward, northward) instead, a quarter turn of that, the two parts become vorticity and divergence.

    def curl_and_divergence(self, wind: Tensor) -> Tensor:
        """Coefficients of the curl and the divergence of (u, v) ``[..., 2, nlat, nlon]``."""
        return self._eigenvalue * self._analyse_vector(wind)  # type: ignore[no-any-return]

    def wind(self, curl_and_divergence: Tensor) -> Tensor:
        """The inverse of :meth:`curl_and_divergence`: (u, v) on the grid."""
        return self._synthesise_vector(self._inverse_eigenvalue * curl_and_divergence)  # type: ignore[no-any-return]


def _rule_of(grid: LatLonGrid) -> str:
    from torch_harmonics.quadrature import precompute_latitudes

    for rule in _EXACT_DEGREE if isinstance(grid, LatLonGrid) else ():
        colatitudes = np.degrees(np.asarray(precompute_latitudes(len(grid.lat_axis), grid=rule)[0]))
        if np.allclose(90.0 - colatitudes, grid.lat_axis, rtol=0, atol=1e-9):
            return rule
    raise ValueError(
        f"{grid!r} has no harmonic transform, which needs Gaussian, Lobatto or equiangular latitudes with "
        "poles from north to south: try ga.grids.gaussian(nlat, nlon)"
    )
