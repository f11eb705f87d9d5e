"""Grids: points of a domain with the quadrature weights that stand for its measure."""

from geoattn.grids.base import Grid, SphericalGrid
from geoattn.grids.cartesian import Cartesian, cartesian
from geoattn.grids.latlon import Gaussian, LatLonGrid, gaussian

__all__ = ["Cartesian", "Gaussian", "Grid", "LatLonGrid", "SphericalGrid", "cartesian", "gaussian"]
