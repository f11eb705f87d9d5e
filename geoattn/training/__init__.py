"""Training with Lightning: one run, one folder, and the same numbers after a kill. Imported on use."""

from geoattn.training.config import FitConfig
from geoattn.training.data import Checked, Data, Rounds
from geoattn.training.fit import fit
from geoattn.training.optimisers import one_cycle

__all__ = ["Checked", "Data", "FitConfig", "Rounds", "fit", "one_cycle"]
