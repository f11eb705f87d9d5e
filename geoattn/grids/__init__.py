"""Grids: points of a domain with the quadrature weights that stand for its measure.

A grid of your own extends :class:`SphericalGrid` or :class:`Grid` and names its kind; every part of the
library takes it. A package declares it, so that files that name its kind are read, and offers to
recognise it in data sets::

    [project.entry-points."geoattn.grids"]
    spiral = "my_package.spiral:Spiral"

    [project.entry-points."geoattn.recognisers"]
    spiral = "my_package.spiral:recognise_spiral"
"""

from geoattn.grids.base import Grid, PointSet, SphericalGrid
from geoattn.grids.cartesian import Cartesian, cartesian
from geoattn.grids.catalogue import Catalogue, Entry, catalogue, named
from geoattn.grids.cells import Cells
from geoattn.grids.coarsening import CoarseLatLon, Patches, patches
from geoattn.grids.coverage import RegionError
from geoattn.grids.cube import CubedSphere, cubed_sphere
from geoattn.grids.curvilinear import Curvilinear
from geoattn.grids.harmonics import position_features, real_spherical_harmonics
from geoattn.grids.healpix import HEALPix, healpix, nested_to_ring, ring_to_nested
from geoattn.grids.icosahedral import Icosahedral, icosahedral
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
from geoattn.grids.mesh import mesh
from geoattn.grids.orders import order
from geoattn.grids.points import Points, points
from geoattn.grids.product import ProductGrid, product
from geoattn.grids.recognisers import Recogniser, Recognition, register_recogniser
from geoattn.grids.recognition import from_xarray, recognise
from geoattn.grids.reduced import ReducedGaussian, reduced_gaussian
from geoattn.grids.regional import regional
from geoattn.grids.regional_latlon import RegionalLatLon
from geoattn.grids.repeats import distinct
from geoattn.grids.union import GridUnion, union

__all__ = [
    "Cartesian",
    "Catalogue",
    "Cells",
    "CoarseLatLon",
    "CubedSphere",
    "Curvilinear",
    "Entry",
    "Equiangular",
    "Gaussian",
    "Grid",
    "GridUnion",
    "HEALPix",
    "Icosahedral",
    "LatLon",
    "LatLonGrid",
    "Lobatto",
    "Patches",
    "PointSet",
    "Points",
    "ProductGrid",
    "Recogniser",
    "Recognition",
    "ReducedGaussian",
    "RegionError",
    "RegionalLatLon",
    "SphericalGrid",
    "cartesian",
    "catalogue",
    "cubed_sphere",
    "distinct",
    "equiangular",
    "from_xarray",
    "gaussian",
    "healpix",
    "icosahedral",
    "latlon",
    "lobatto",
    "mesh",
    "named",
    "nested_to_ring",
    "order",
    "patches",
    "points",
    "position_features",
    "product",
    "real_spherical_harmonics",
    "recognise",
    "reduced_gaussian",
    "regional",
    "register_recogniser",
    "ring_to_nested",
    "union",
]
