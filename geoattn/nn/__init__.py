"""Modules: attention over a neighborhood and the parts that make a model of it."""

from geoattn.grids import patches, position_features, real_spherical_harmonics
from geoattn.nn.attention import Attention
from geoattn.nn.block import Block, LayerScale, set_grad_checkpointing
from geoattn.nn.decay import no_weight_decay
from geoattn.nn.drop_path import DropPath
from geoattn.nn.embedding import PatchEmbed, PatchUnembed, PositionFeatures
from geoattn.nn.position import (
    Angles,
    Continuous,
    Directional,
    Fourier,
    Harmonic,
    Offsets,
    PairBias,
    PairPosition,
    Position,
    Rotary,
)
from geoattn.nn.resampling import Resample
from geoattn.nn.table import Table

__all__ = [
    "Angles",
    "Attention",
    "Block",
    "Continuous",
    "Directional",
    "DropPath",
    "Fourier",
    "Harmonic",
    "LayerScale",
    "Offsets",
    "PairBias",
    "PairPosition",
    "PatchEmbed",
    "PatchUnembed",
    "Position",
    "PositionFeatures",
    "Resample",
    "Rotary",
    "Table",
    "no_weight_decay",
    "patches",
    "position_features",
    "real_spherical_harmonics",
    "set_grad_checkpointing",
]
