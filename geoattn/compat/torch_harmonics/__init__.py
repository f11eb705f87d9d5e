"""torch-harmonics' attention layers on this package's operator, with 0.9's signatures and state dicts.

``from geoattn.compat.torch_harmonics import NeighborhoodAttentionS2, AttentionS2`` in place of theirs, or
:func:`convert` for a model that is built already. torch-harmonics itself is not needed.
"""

from geoattn.compat.torch_harmonics.conversion import Conversion, convert
from geoattn.compat.torch_harmonics.layers import AttentionS2, NeighborhoodAttentionS2

__all__ = ["AttentionS2", "Conversion", "NeighborhoodAttentionS2", "convert"]
