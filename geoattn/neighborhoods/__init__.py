"""Neighborhoods: which keys each query sees, one pattern per file."""

from geoattn.neighborhoods.base import Neighborhood, Rotation, Rows
from geoattn.neighborhoods.edges import from_edges
from geoattn.neighborhoods.everything import everything
from geoattn.neighborhoods.geodesic import geodesic
from geoattn.neighborhoods.window import window

__all__ = [
    "Neighborhood",
    "Rotation",
    "Rows",
    "everything",
    "from_edges",
    "geodesic",
    "window",
]
