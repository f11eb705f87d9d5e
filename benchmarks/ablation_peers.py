"""torch-harmonics' models of the ablation, and how its own examples train them.

Flags are those of its ``examples/model_registry.py`` at 9e9fa53 (August 2026), with the size of ours: as
many channels as bring the number of parameters closest, as many blocks, discs of the same radius, and,
since these grids are coarse already, no coarser grid inside.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from geoattn.grids import LatLonGrid
from geoattn.tasks.settings import ModelSettings

#: task → peers that its own examples train for it
PEERS = {
    "shallow-water": ("S2Transformer", "SFNO", "LSNO"),
    "segmentation": ("S2SegFormer", "S2UNet", "LSNO"),
    "depth": ("S2SegFormer", "S2UNet", "LSNO"),
}

#: optimiser, schedule, clipping and batch of its ``examples/*/train.py``. Shallow water and depth lower the
#: rate on plateaus of epochs, which runs of minutes do not reach: it stays.
RECIPES: dict[str, dict[str, Any]] = {
    "shallow-water": {
        "optimizer": "adam",
        "weight_decay": 0.0,
        "schedule": "none",
        "gradient_norm": None,
        "batch_size": 4,
    },
    "segmentation": {
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "schedule": "cosine",
        "schedule_options": {"eta_min": 1e-6},
        "gradient_norm": 4.0,
    },
    "depth": {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "none", "gradient_norm": None},
}
#: and their learning rates
THEIR_RATE = {"shallow-water": 1e-4, "segmentation": 5e-4, "depth": 1e-3}


def equal(row: str, grid: LatLonGrid, model: ModelSettings, channels: int, parameters: int) -> nn.Module:
    """A peer of the width whose number of parameters comes closest."""
    make = partial(MAKERS[row], grid, model, channels)

    def count(width: int) -> int:
        with torch.random.fork_rng():
            return sum(p.numel() for p in make(width).parameters())

    widths = range(model.num_heads, 40 * model.num_heads, model.num_heads)
    enough = bisect.bisect_left(widths, parameters, key=count)  # more channels, more parameters
    near = [widths[i] for i in (enough - 1, enough) if 0 <= i < len(widths)]
    return make(min(near, key=lambda width: abs(count(width) - parameters)))


def _whole(grid: LatLonGrid) -> str:
    """What torch-harmonics calls the grid; panoramas count as its equiangular one, as in its examples."""
    return "legendre-gauss" if grid.kind == "gaussian" else "equiangular"


def _transformer(grid: LatLonGrid, model: ModelSettings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalTransformer

    made: nn.Module = SphericalTransformer(
        img_size=grid.shape,
        grid=_whole(grid),
        grid_internal=_whole(grid),
        scale_factor=1,
        in_chans=3,
        out_chans=channels,
        embed_dim=width,
        num_layers=model.depth,
        num_heads=model.num_heads,
        normalization_layer="instance_norm",
        pos_embed="spectral",
        attention_mode="neighborhood",
        theta_cutoff=math.radians(model.radius),
        bias=True,
    )
    return made


def _sfno(grid: LatLonGrid, model: ModelSettings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalFourierNeuralOperator

    made: nn.Module = SphericalFourierNeuralOperator(
        img_size=grid.shape,
        grid=_whole(grid),
        grid_internal="legendre-gauss",
        scale_factor=1,
        in_chans=3,
        out_chans=channels,
        embed_dim=width,
        num_layers=model.depth,
        normalization_layer="instance_norm",
    )
    return made


def _lsno(grid: LatLonGrid, model: ModelSettings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import LocalSphericalNeuralOperator

    made: nn.Module = LocalSphericalNeuralOperator(
        img_size=grid.shape,
        grid=_whole(grid),
        grid_internal="legendre-gauss",
        scale_factor=1,
        in_chans=3,
        out_chans=channels,
        embed_dim=width,
        num_layers=model.depth,
        kernel_shape=(5, 4),
        encoder_kernel_shape=(5, 4),
        filter_basis_type="piecewise linear",
        normalization_layer="instance_norm",
    )
    return made


def _segformer(grid: LatLonGrid, model: ModelSettings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalSegformer

    made: nn.Module = SphericalSegformer(
        img_size=grid.shape,
        grid=_whole(grid),
        grid_internal="equiangular",
        in_chans=3,
        out_chans=channels,
        embed_dims=[width * 2**stage for stage in range(model.stages)],
        heads=[model.num_heads * 2**stage for stage in range(model.stages)],
        depths=[model.depth] * model.stages,
        scale_factor=2,
        kernel_shape=(5, 4),
        filter_basis_type="piecewise linear",
        drop_path_rate=0.1,
        attention_mode="neighborhood",
        theta_cutoff=math.radians(model.radius),
    )
    return made


def _unet(grid: LatLonGrid, model: ModelSettings, channels: int, width: int) -> nn.Module:
    from torch_harmonics.examples.models import SphericalUNet

    made: nn.Module = SphericalUNet(
        img_size=grid.shape,
        grid=_whole(grid),
        grid_internal="equiangular",
        in_chans=3,
        out_chans=channels,
        embed_dims=[width * 2**stage for stage in range(model.stages)],
        depths=[model.depth] * model.stages,
        scale_factor=2,
        activation_function="gelu",
        kernel_shape=(5, 4),
        filter_basis_type="piecewise linear",
        drop_path_rate=0.1,
        drop_conv_rate=0.2,
        drop_dense_rate=0.5,
        upsampling_mode="conv",
        downsampling_mode="conv",
    )
    return made


MAKERS: dict[str, Callable[[LatLonGrid, ModelSettings, int, int], nn.Module]] = {
    "S2Transformer": _transformer,
    "SFNO": _sfno,
    "LSNO": _lsno,
    "S2SegFormer": _segformer,
    "S2UNet": _unet,
}
