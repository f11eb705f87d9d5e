"""torch-harmonics' layers in a model that is built already, replaced by this package's."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from geoattn._warning import warn
from geoattn.compat.torch_harmonics.layers import (
    GRIDS,
    REACH,
    AttentionS2,
    NeighborhoodAttentionS2,
    Shape,
    SphereAttention,
    grid,
)
from geoattn.neighborhoods import geodesic


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did: names of the layers that were swapped, and why others were not.

    Examples
    --------
    >>> done = ga.compat.torch_harmonics.Conversion(("encoder.attention",), {"head": "it has hooks"})
    >>> print(done)
    1 attention layers of torch-harmonics converted, 1 left
      head: it has hooks
    """

    converted: tuple[str, ...]
    left: dict[str, str]

    def __str__(self) -> str:
        lines = [
            f"{len(self.converted)} attention layers of torch-harmonics converted, {len(self.left)} left"
        ]
        return "\n  ".join([*lines, *(f"{name}: {reason}" for name, reason in self.left.items())])


def convert(model: nn.Module) -> Conversion:
    """Put this package's layers in the place of all of torch-harmonics' attention layers in a model.

    In place. The parameters are the same objects, so an optimiser goes on with them and the state dict
    keeps its names. Left as they are, with the reason: layers of another class than torch-harmonics'
    own two (subclasses, distributed layers), layers with hooks, layers that drop attention weights while
    in training, and those whose edges are those of no grid of torch-harmonics.

    Parameters
    ----------
    model
        Any module that holds such layers.

    Returns
    -------
    Conversion
        Which layers were converted and which were left.

    Raises
    ------
    TypeError
        If the model is itself such a layer: what holds it cannot be seen from here.

    Warns
    -----
    UserWarning
        If a layer was left, or there was nothing to convert.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8))  # one of theirs has layers to convert
    >>> ga.compat.torch_harmonics.convert(model).converted
    ()
    """
    peer = sys.modules.get("torch_harmonics")  # a model that has its layers has imported it
    ours: dict[nn.Module, nn.Module | str] = {}
    converted, left = [], {}
    for name, parent, attribute, layer in list(_attentions(model)):
        if parent is None:
            raise TypeError(
                f"the model is itself a {type(layer).__name__}, which cannot be replaced in place; "
                "convert(torch.nn.Sequential(layer)) converts it inside"
            )
        if layer not in ours:
            ours[layer] = _converted(layer, peer)
        found = ours[layer]
        if isinstance(found, str):
            left[name] = found
        else:
            parent._modules[attribute] = found
            converted.append(name)
    done = Conversion(tuple(converted), left)
    if left:
        warn(str(done))
    elif not converted:
        warn(f"nothing to convert: {type(model).__name__} holds no attention layer of torch-harmonics")
    return done


def _attentions(model: nn.Module) -> Iterator[tuple[str, nn.Module | None, str, nn.Module]]:
    """Name, parent, attribute and layer of all attention layers of torch-harmonics, wherever each stands."""

    def is_theirs(module: nn.Module) -> bool:
        return any(
            base.__module__.split(".")[0] == "torch_harmonics" and "AttentionS2" in base.__name__
            for base in type(module).__mro__
        )

    if is_theirs(model):
        yield "", None, "", model
    for path, parent in model.named_modules():
        for attribute, child in parent._modules.items():
            if child is not None and is_theirs(child):
                yield f"{path}.{attribute}".lstrip("."), parent, attribute, child


def _converted(layer: nn.Module, peer: Any) -> nn.Module | str:
    """The layer on this package's operator, or why there is none."""
    if type(layer) not in (peer.AttentionS2, peer.NeighborhoodAttentionS2):
        kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
        return f"it is a {kind}, not one of torch-harmonics' own two"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "it has hooks, which would be lost; remove them first"
    theirs: Any = layer
    shapes = (theirs.nlat_in, theirs.nlon_in), (theirs.nlat_out, theirs.nlon_out)
    settings = {
        "in_channels": theirs.in_channels,
        "num_heads": theirs.num_heads,
        "in_shape": shapes[0],
        "out_shape": shapes[1],
        "scale": theirs.scale,
        "use_qknorm": theirs.q_norm_weights is not None,
        "bias": theirs.q_bias is not None,
        "k_channels": theirs.k_channels,
        "out_channels": theirs.out_channels,
    }
    ours: SphereAttention
    if isinstance(layer, peer.AttentionS2):
        if theirs.drop_rate > 0 and theirs.training:
            return (
                f"drop_rate={theirs.drop_rate} in training; call model.eval() first, or set drop_rate = 0.0"
            )
        kinds = list(_kinds(theirs.log_quad_weights.flatten()[:: theirs.nlon_in].exp(), shapes[0]))
        if not kinds:
            return "its quadrature weights are those of no grid of torch-harmonics"
        with torch.device("meta"):
            ours = AttentionS2(**settings, grid_in=kinds[0], drop_rate=theirs.drop_rate)
    else:
        pair = _matching(theirs, *shapes)
        if pair is None:
            return "its edges or quadrature weights are those of no grid of torch-harmonics"
        with torch.device("meta"):
            ours = NeighborhoodAttentionS2(
                **settings, grid_in=pair[0], grid_out=pair[1], theta_cutoff=theirs.theta_cutoff
            )
    own = {name: parameter for name, parameter in ours._parameters.items() if parameter is None}
    ours._parameters = {**layer._parameters, **own}  # the same objects in the same order: optimisers go on
    return ours.train(layer.training)


def _kinds(weights: Tensor, shape: Shape) -> Iterator[str]:
    """Names of the grids whose rows have these weights per point."""
    found = weights.double().cpu().numpy()
    for kind in GRIDS:
        if np.allclose(grid(kind, shape).weights[:, 0], found, rtol=1e-4, atol=0):
            yield kind


def _matching(layer: Any, in_shape: Shape, out_shape: Shape) -> tuple[str, str] | None:
    """The grids for which our discs are exactly the layer's edges; it does not keep their names."""
    stored = layer.psi_roff_idx.cpu().numpy(), layer.psi_col_idx.cpu().numpy()
    for kind_in, kind_out in product(_kinds(layer.quad_weights, in_shape), GRIDS):
        query_grid, key_grid = grid(kind_out, out_shape), grid(kind_in, in_shape)
        hood = geodesic(query_grid, key_grid, radius=math.degrees(REACH * layer.theta_cutoff))
        hood = hood.transpose() if layer.upsample else hood  # theirs is kept by rows of the coarser grid
        rings, nlon = hood.query_grid.shape
        rows = hood.rows(np.arange(rings) * nlon)
        if np.array_equal(rows.indptr, stored[0]) and np.array_equal(rows.indices, stored[1]):
            return kind_in, kind_out
    return None
