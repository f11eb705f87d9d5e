"""The bridge to xarray: data sets to tensors and back, statistics, streaming data sets for torch."""

from geoattn.xarray.schema import Schema, Variable
from geoattn.xarray.tensors import to_tensor, to_xarray

__all__ = ["Schema", "Variable", "to_tensor", "to_xarray"]
