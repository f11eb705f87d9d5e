"""Shallow water on the rotating sphere: a spectral solver, its test cases, and training data from it."""

from geoattn.tasks.shallow_water.cases import (
    Case,
    cone,
    galewsky_jet,
    mountain,
    rossby_haurwitz,
    steady_zonal_flow,
)
from geoattn.tasks.shallow_water.data import (
    filter_gravity_waves,
    generate_trajectories,
    random_balanced_states,
    to_dataset,
)
from geoattn.tasks.shallow_water.ground import ground_height
from geoattn.tasks.shallow_water.solver import CHANNELS, DAY, EARTH, HOUR, Planet, ShallowWater

__all__ = [
    "CHANNELS",
    "DAY",
    "EARTH",
    "HOUR",
    "Case",
    "Planet",
    "ShallowWater",
    "cone",
    "filter_gravity_waves",
    "galewsky_jet",
    "generate_trajectories",
    "ground_height",
    "mountain",
    "random_balanced_states",
    "rossby_haurwitz",
    "steady_zonal_flow",
    "to_dataset",
]
