"""Modules: attention over a neighborhood and the parts that make a model of it."""

from geoattn.nn.attention import Attention
from geoattn.nn.block import Block, LayerScale
from geoattn.nn.embedding import PositionFeatures
from geoattn.nn.harmonics import position_features, real_spherical_harmonics
from geoattn.nn.position import Fourier, Harmonic, Position, Rotary

__all__ = [
    "Attention",
    "Block",
    "Fourier",
    "Harmonic",
    "LayerScale",
    "Position",
    "PositionFeatures",
    "Rotary",
    "position_features",
    "real_spherical_harmonics",
]
