"""NATTEN's calls on this package's operator: the fused ones of 0.21, and the unfused pairs of 0.14 to 0.17.

``from geoattn.compat.natten import na2d`` in place of NATTEN's, or :func:`install` for code that says
``import natten``. Everything runs and trains on a CPU, in any dtype, and derivatives of any order are right.
"""

from geoattn.compat.natten.functional import attention, merge_attentions, na1d, na2d, na3d
from geoattn.compat.natten.installing import install
from geoattn.compat.natten.modules import (
    NeighborhoodAttention1D,
    NeighborhoodAttention2D,
    NeighborhoodAttention3D,
)

__all__ = [
    "NeighborhoodAttention1D",
    "NeighborhoodAttention2D",
    "NeighborhoodAttention3D",
    "attention",
    "install",
    "merge_attentions",
    "na1d",
    "na2d",
    "na3d",
]
