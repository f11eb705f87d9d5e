"""What scipy calls otherwise in its older versions."""

from __future__ import annotations

from typing import Any

try:
    from scipy.special import sph_harm_y as sph_harm_y
except ImportError:  # before scipy 1.15
    from scipy.special import sph_harm

    def sph_harm_y(degree: int, order: int, theta: Any, phi: Any) -> Any:
        """The spherical harmonic at colatitude ``theta`` and longitude ``phi``."""
        return sph_harm(order, degree, phi, theta)
