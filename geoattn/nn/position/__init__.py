"""Schemes of relative position: in the channels of queries and keys, or as a bias for every pair."""

from geoattn.nn.position.base import Position, resolve, schemes
from geoattn.nn.position.channels import Directional, Fourier, Harmonic, Rotary
from geoattn.nn.position.pairs import Angles, Continuous, Offsets, PairBias, PairPosition

__all__ = [
    "Angles",
    "Continuous",
    "Directional",
    "Fourier",
    "Harmonic",
    "Offsets",
    "PairBias",
    "PairPosition",
    "Position",
    "Rotary",
    "resolve",
    "schemes",
]
