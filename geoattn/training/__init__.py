"""Training with Lightning: one run, one folder, and the same numbers after a kill. Imported on use."""

from typing import TYPE_CHECKING, Any

from geoattn import _extras

_extras.require("geoattn.training", "lightning")

from geoattn.training.config import FitConfig
from geoattn.training.data import Checked, Data, Rounds
from geoattn.training.fit import fit
from geoattn.training.optimisers import optimizers

if TYPE_CHECKING:
    from geoattn.training.forecasting import train_forecaster as train_forecaster

__all__ = ["Checked", "Data", "FitConfig", "Rounds", "fit", "optimizers", "train_forecaster"]


def __getattr__(name: str) -> Any:
    if name == "train_forecaster":  # the only one that needs xarray
        from geoattn.training.forecasting import train_forecaster

        return train_forecaster
    raise AttributeError(f"module 'geoattn.training' has no attribute {name!r}")
