"""Patterns of published models: what each costs and gains, as the plans say and as our kernels take it.

All on 4,096 tokens, over our kernels on all pairs. Swin (2103.14030), HaloNet (2103.12731), MaxViT's grid
(2204.01697), Radial Attention (2506.19852) of 64 frames, and a permutation as in permuted block-sparse
attention (2510.21270): the tokens of a plane come in a random order, first as they are, then in an order
that is found from the pattern alone, by reverse Cuthill–McKee, and undone afterwards, which counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from systems_measure import (
    FOLDER,
    Call,
    Options,
    Results,
    Row,
    dense,
    gains,
    in_turn,
    operands,
    ours,
    predicted,
)
from torch import Tensor

import geoattn as ga
from geoattn.neighborhoods import Neighborhood

SIDE, FRAMES = 64, 64
SMALL = (16, 4)
PICTURE = FOLDER / "systems_patterns.png"


def patterns(side: int, frames: int) -> dict[str, Neighborhood]:
    plane = ga.grids.cartesian((side, side))
    around = ga.window(plane, 7)
    return {
        "neighborhood attention, 7×7": around,
        "Swin, 8×8": ga.window(plane, 8, stride=8),
        "Swin, 8×8, shifted": ga.window(plane, 8, stride=8, offset=4, boundary="clip"),
        "HaloNet, blocks of 8, halo of 3": ga.window(plane, 8 + 2 * 3, stride=8, boundary="clip"),
        "MaxViT's grid, 8×8": ga.window(plane, 8, dilation=side // 8),
        f"Radial Attention, {frames} frames": radial(frames, side**2 // frames),
        "7×7 in a random order": shuffled(around),
    }


def radial(frames: int, tokens: int) -> Neighborhood:
    """Windows along the tokens of a frame that are halved where the distance in time doubles."""
    time, line = ga.grids.cartesian(frames), ga.grids.cartesian(tokens)
    distance = np.abs(np.arange(frames)[:, None] - np.arange(frames))
    parts = []
    for octave in range(frames.bit_length()):
        near = (2**octave <= distance.clip(1)) & (distance.clip(1) < 2 ** (octave + 1))
        times = ga.from_edges(time, time, np.append(0, near.sum(1).cumsum()), np.nonzero(near)[1])
        width = 2 * max(tokens // 2**octave, 1) - 1
        parts.append(ga.product(times, ga.window(line, width, boundary="clip")))
    return ga.union(*parts)


def shuffled(hood: Neighborhood) -> Neighborhood:
    """The same edges between tokens in a random order, of which nothing but the edges is known."""
    order = np.random.default_rng(0).permutation(hood.query_grid.size)
    return renumbered(hood, order)


def renumbered(hood: Neighborhood, order: Any) -> Neighborhood:
    """Edges between the tokens ``order[0]``, ``order[1]``, …, as tokens of a line."""
    n = hood.query_grid.size
    matrix = as_matrix(hood)[order][:, order]
    matrix.sort_indices()
    line = ga.grids.cartesian(n)
    return ga.from_edges(line, line, matrix.indptr, matrix.indices)


def as_matrix(hood: Neighborhood) -> Any:
    indptr, indices = hood.to_csr()
    return csr_array((np.ones(len(indices), np.int8), indices, indptr), shape=(hood.query_grid.size,) * 2)


def measure(results: Results, options: Options) -> None:
    found = patterns(*(SMALL if options.small else (SIDE, FRAMES)))
    for name, hood in found.items():
        results.row("patterns", name, lambda hood=hood: one(hood, {"ours": ours(hood)}, options))
    random = found["7×7 in a random order"]
    results.row("patterns", "7×7 in a random order, permuted", lambda: permuted(random, options))


def one(hood: Neighborhood, calls: dict[str, Call], options: Options) -> Row:
    calls = calls | {"dense": dense(hood)}
    times = in_turn(calls, operands(hood), options.rounds, expected={"dense": calls["dense"]})
    return {"predicted": predicted(hood), "seconds": times, "gain": gains(times, "dense", "ours")}


def found_order(hood: Neighborhood) -> NDArray[np.int64]:
    """Tokens in an order in which those that see each other are near, by reverse Cuthill–McKee."""
    return np.array(reverse_cuthill_mckee(as_matrix(hood).tocsr(), symmetric_mode=False), np.int64)


def permuted(hood: Neighborhood, options: Options) -> Row:
    """Operands are brought into the found order, and the result back: predictions are those in the order."""
    order = found_order(hood)
    inside = renumbered(hood, order)
    forth, back = torch.as_tensor(order), torch.as_tensor(np.argsort(order))

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ga.attention(*(x[:, forth] for x in (q, k, v)), inside, backend="cpu")[:, back]

    row = one(hood, {"ours": call}, options)
    return row | {"predicted": predicted(inside)}


def draw(rows: dict[str, Any]) -> None:
    """What one query sees, for each pattern of a plane; of the others, who sees whom."""
    from geoattn.plot import figures

    found = patterns(SIDE, FRAMES)
    random = found["7×7 in a random order"]
    found["7×7 in a random order, permuted"] = renumbered(random, found_order(random))
    figure = figures.new(14, 7.4)
    for axes, (name, hood) in zip(figure.subplots(2, 4).flat, found.items(), strict=True):
        if isinstance(hood.query_grid, ga.grids.Cartesian) and len(hood.query_grid.shape) == 2:
            ga.picture(hood, (21, 37), axes)
        else:
            axes.spy(as_matrix(hood), markersize=0.05, color="#2f6f9f", rasterized=True)
            axes.set(xlabel="keys", ylabel="queries")
        axes.set(xticks=[], yticks=[])
        axes.set_title(name, fontsize="medium")
    figures.save(figure, PICTURE, dpi=80)
