"""Faster Neighborhood Attention (Hassani et al., 2403.04690): fused kernels, unfused ones, all pairs.

Fused is ours: nothing is kept for a pair of query and key. Unfused gathers the keys and values of every
query, as first implementations did. Dense is torch's ``scaled_dot_product_attention`` over all pairs with a
mask, and, as the measure of what a prediction promises, our own kernels over all pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from systems_measure import (
    FOLDER,
    Call,
    Options,
    Results,
    Row,
    in_turn,
    operands,
    ours,
    peak_megabytes,
    predicted,
)
from torch import Tensor
from torch.nn import functional as F

import geoattn as ga
from geoattn.neighborhoods import Neighborhood

#: shape of the plane → sizes of the window along each axis
CASES: dict[tuple[int, ...], tuple[int, ...]] = {
    (4096,): (31, 127, 343),
    (64, 64): (5, 11, 19),
    (16, 16, 16): (3, 5, 7),
}
SMALL: dict[tuple[int, ...], tuple[int, ...]] = {(64,): (7,), (8, 8): (3, 5), (4, 4, 4): (3,)}
NAMES = ("fused", "unfused", "dense SDPA", "dense, our kernels")
PICTURE = FOLDER / "systems_memory.png"


def measure(results: Results, options: Options) -> None:
    for shape, sizes in (SMALL if options.small else CASES).items():
        for size in sizes:
            name = f"{times(shape)}, {times((size,) * len(shape))}"
            results.row("fna", name, lambda shape=shape, size=size: one(shape, size, options))


def times(numbers: tuple[int, ...]) -> str:
    return "×".join(map(str, numbers))


def one(shape: tuple[int, ...], size: int, options: Options) -> Row:
    hood = ga.window(ga.grids.cartesian(shape), size)
    everything = ours(ga.everything(hood.query_grid))
    calls = {"fused": ours(hood), "unfused": gathered(hood), "dense SDPA": masked(hood)}
    qkv = operands(hood)
    found = in_turn(
        calls | {"dense, our kernels": everything},
        qkv,
        options.rounds,
        expected={"dense, our kernels": everything},
    )
    memory = {name: peak_megabytes(call, qkv) for name, call in calls.items()}
    return {
        "shape": shape,
        "window": size,
        "predicted": predicted(hood),
        "seconds": found,
        "megabytes": memory,
        "megabytes_of_operands": qkv[0].nbytes / 1e6,
    }


def gathered(hood: Neighborhood) -> Call:
    """Keys and values are gathered for each query ``[N, keys, H, D]``; scores and weights are tensors too."""
    _, indices = hood.to_csr()
    keys = torch.as_tensor(np.asarray(indices, np.int64)).view(hood.query_grid.size, -1)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = q.flatten(1, -3) * q.shape[-1] ** -0.5
        near, values = (
            x.flatten(1, -3).index_select(1, keys.ravel()).unflatten(1, keys.shape) for x in (k, v)
        )
        weights = torch.einsum("bnhd,bnkhd->bnhk", rows, near).softmax(-1)
        return torch.einsum("bnhk,bnkhd->bnhd", weights, values).view(q.shape)

    return call


def masked(hood: Neighborhood) -> Call:
    """torch's attention over all pairs, of which the mask leaves those of the neighborhood."""
    indptr, indices = hood.to_csr()
    seen = torch.zeros(hood.query_grid.size, hood.key_grid.size, dtype=torch.bool)
    seen[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), indices] = True

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = [x.flatten(1, -3).transpose(1, 2) for x in (q, k, v)]
        return F.scaled_dot_product_attention(*heads_first, attn_mask=seen).transpose(1, 2).reshape(q.shape)

    return call


def draw(rows: dict[str, Any]) -> None:
    """Peak memory against the keys of a query, for lines, planes and volumes."""
    from geoattn.plot import curves, save

    panels: dict[str, Any] = {}
    for row in rows.values():
        if None in row["megabytes"].values():
            return
        panel = panels.setdefault(f"peak memory (MB), {times(tuple(row['shape']))} tokens", {})
        for name, megabytes in row["megabytes"].items():
            x, y = panel.setdefault(name, ([], []))
            x.append(row["predicted"]["keys"])
            y.append(megabytes)
    save(curves(None, "keys of a query", panels, logarithmic="y", titled=True), PICTURE, dpi=80)
