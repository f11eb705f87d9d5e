"""Neighborhoods: which keys each query sees, one pattern per file.

A pattern of your own extends :class:`Neighborhood`, names its kind and gives ``rows`` and ``transpose``;
plans, backends, modules and models take it. A package declares it, so that files that name its kind
are read::

    [project.entry-points."geoattn.neighborhoods"]
    antipodal = "my_package.patterns:Antipodal"
"""

from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.curve import curve_window
from geoattn.neighborhoods.edges import from_edges
from geoattn.neighborhoods.everything import everything
from geoattn.neighborhoods.geodesic import geodesic
from geoattn.neighborhoods.heads import heads
from geoattn.neighborhoods.k_hop import k_hop
from geoattn.neighborhoods.nearest import nearest
from geoattn.neighborhoods.product import product
from geoattn.neighborhoods.rows import Rotation, Rows
from geoattn.neighborhoods.union import union
from geoattn.neighborhoods.window import window

__all__ = [
    "Neighborhood",
    "Rotation",
    "Rows",
    "curve_window",
    "everything",
    "from_edges",
    "geodesic",
    "heads",
    "k_hop",
    "nearest",
    "product",
    "union",
    "window",
]
