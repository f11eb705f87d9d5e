"""The bridge to xarray: data sets to tensors and back, statistics, streaming data sets for torch."""

from typing import TYPE_CHECKING, Any

from geoattn import _extras

_extras.require("geoattn.xarray", "xarray")

import xarray

from geoattn._accessor import register
from geoattn.xarray import partial
from geoattn.xarray.accessor import Accessor
from geoattn.xarray.fields import mean, plot, weights
from geoattn.xarray.forecasts.forecast import forecast
from geoattn.xarray.forecasts.forecaster import Forecaster
from geoattn.xarray.regrid import Regridder, regrid
from geoattn.xarray.schema.coordinates import coordinates
from geoattn.xarray.schema.schema import Schema
from geoattn.xarray.schema.tensors import to_tensor, to_xarray
from geoattn.xarray.schema.variable import Variable
from geoattn.xarray.scores import metrics
from geoattn.xarray.stores.gathering import statistics
from geoattn.xarray.stores.statistics import Moments, Statistics
from geoattn.xarray.stores.windows import Windows

if TYPE_CHECKING:
    from geoattn.xarray.stores.data_module import DataModule as DataModule

__all__ = [
    "DataModule",
    "Forecaster",
    "Moments",
    "Regridder",
    "Schema",
    "Statistics",
    "Variable",
    "Windows",
    "coordinates",
    "forecast",
    "mean",
    "metrics",
    "partial",
    "plot",
    "regrid",
    "statistics",
    "to_tensor",
    "to_xarray",
    "weights",
]

register(xarray, Accessor)  # unless ``import geoattn`` has; it has not where xarray was half imported then


def __getattr__(name: str) -> Any:
    if name == "DataModule":  # the only one that needs lightning
        from geoattn.xarray.stores.data_module import DataModule

        return DataModule
    raise AttributeError(f"module 'geoattn.xarray' has no attribute {name!r}")
