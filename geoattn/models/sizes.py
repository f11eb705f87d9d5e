"""Three sizes of both models, and the number of their parameters."""

from __future__ import annotations

from typing import Any

import torch

from geoattn.grids import Grid, gaussian, patches
from geoattn.models.config import ModelConfig
from geoattn.models.encoder_decoder import EncoderDecoderConfig
from geoattn.models.transformer import TransformerConfig
from geoattn.neighborhoods import everything

#: entries of TransformerConfig
TRANSFORMER_SIZES: dict[str, dict[str, Any]] = {
    "S": {"dim": 96, "depth": 4, "num_heads": 4},
    "M": {"dim": 256, "depth": 8, "num_heads": 8},
    "L": {"dim": 512, "depth": 12, "num_heads": 16},
}
#: entries of EncoderDecoderConfig, for three stages
ENCODER_DECODER_SIZES: dict[str, dict[str, Any]] = {
    "S": {"dims": (32, 64, 128), "depths": (2, 2, 2), "num_heads": (1, 2, 4), "decoder_dim": 64},
    "M": {"dims": (64, 128, 256), "depths": (2, 4, 6), "num_heads": (2, 4, 8), "decoder_dim": 128},
    "L": {"dims": (128, 256, 512), "depths": (4, 6, 10), "num_heads": (4, 8, 16), "decoder_dim": 256},
}


def parameter_count(config: ModelConfig) -> int:
    """Numbers that the model learns; it is built without memory for them.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> ga.models.parameter_count(ga.models.TransformerConfig(grid, ga.geodesic(grid, radius=40), 1, 1))
    135745
    """
    with torch.device("meta"):
        return sum(p.numel() for p in config.build().parameters())


def table() -> str:
    """The sizes with their counts, for fields of 3 channels in, 3 out, in patches of 2 points a side."""
    grids: list[Grid] = [gaussian(16, 32)]  # the count does not depend on the grid
    for _ in range(3):
        grids.append(patches(grids[-1], 2).grid)
    hoods = [everything(grid) for grid in grids[1:]]
    lines = [f"{'model':<16} {'size':<5} {'parameters':>11}  entries"]
    for size, shape in TRANSFORMER_SIZES.items():
        count = parameter_count(TransformerConfig(grids[0], (hoods[0],), 3, 3, patch=2, **shape))
        lines.append(f"{'Transformer':<16} {size:<5} {count:>11,}  {shape}")
    for size, shape in ENCODER_DECODER_SIZES.items():
        count = parameter_count(EncoderDecoderConfig(grids[0], tuple(hoods), 3, 3, **shape))
        lines.append(f"{'EncoderDecoder':<16} {size:<5} {count:>11,}  {shape}")
    return "\n".join(lines)
