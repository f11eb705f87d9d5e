"""Everything that draws: neighborhoods, maps of fields on spheres, curves, tables of panoramas.

Needs matplotlib, ``pip install "geoattn[plot]"``, which is imported when something is drawn.
"""

from geoattn.plot.curves import curves, learning_curves, read_metrics, training_curves
from geoattn.plot.figures import save
from geoattn.plot.maps import PROJECTIONS, coastlines, draw, lat_lon_map, map_with_bar
from geoattn.plot.neighborhoods import picture
from geoattn.plot.panels import (
    Column,
    Legend,
    depth_picture,
    forecast_picture,
    segmentation_picture,
    sphere_picture,
    table,
)

__all__ = [
    "PROJECTIONS",
    "Column",
    "Legend",
    "coastlines",
    "curves",
    "depth_picture",
    "draw",
    "forecast_picture",
    "lat_lon_map",
    "learning_curves",
    "map_with_bar",
    "picture",
    "read_metrics",
    "save",
    "segmentation_picture",
    "sphere_picture",
    "table",
    "training_curves",
]
