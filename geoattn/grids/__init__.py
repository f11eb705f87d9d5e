"""Grids: points of a domain with the quadrature weights that stand for its measure."""

from geoattn.grids.base import Grid, PointSet, SphericalGrid
from geoattn.grids.cartesian import Cartesian, cartesian
from geoattn.grids.latlon import (
    Equiangular,
    Gaussian,
    LatLon,
    LatLonGrid,
    Lobatto,
    equiangular,
    gaussian,
    latlon,
    lobatto,
)

__all__ = [
    "Cartesian",
    "Equiangular",
    "Gaussian",
    "Grid",
    "LatLon",
    "LatLonGrid",
    "Lobatto",
    "PointSet",
    "SphericalGrid",
    "cartesian",
    "equiangular",
    "gaussian",
    "latlon",
    "lobatto",
]
