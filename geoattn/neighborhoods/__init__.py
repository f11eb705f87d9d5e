"""Neighborhoods: which keys each query sees, one pattern per file."""

from geoattn.neighborhoods.base import Neighborhood, Rotation, Rows
from geoattn.neighborhoods.edges import from_edges

__all__ = ["Neighborhood", "Rotation", "Rows", "from_edges"]
