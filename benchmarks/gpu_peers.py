"""The implementations that ``benchmarks/gpu.py`` compares.

Each is a function of (case, neighborhood) that prepares what does not belong to the call and returns
the call: operands ``[B, *grid, H, D]`` on the device in, output in the same shape out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from gpu_cases import Case
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

import geoattn as ga
from geoattn.neighborhoods import Neighborhood
from geoattn.neighborhoods.everything import Everything

Call = Callable[[Tensor, Tensor, Tensor], Tensor]

#: most tokens for which dense attention is run
DENSE_TOKENS = 140_000
#: most query–key pairs for which FlexAttention's mask is made from all pairs
DENSE_PAIRS = 5_000_000_000


class Absent(Exception):
    """Why a peer cannot run a case."""


def _of(backend: str) -> Callable[[Case, Neighborhood], Call]:
    """One of our backends."""

    def prepare(case: Case, hood: Neighborhood) -> Call:
        return lambda q, k, v: ga.attention(q, k, v, hood, backend=backend)

    return prepare


def flex(case: Case, hood: Neighborhood) -> Call:
    """FlexAttention as its documentation has it: tokens row by row, a rule for pairs, blocks of 128."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    size = hood.key_grid.size
    if size**2 > DENSE_PAIRS:
        raise Absent(f"its block mask is made from all pairs, {size**2 / 1e9:.0f} G here")
    if isinstance(hood, Everything):
        blocks = None
    elif case.sphere is not None:
        points = torch.as_tensor(hood.key_grid.xyz.reshape(-1, 3).copy(), device="cuda").float()
        # nearer than the chord of the radius, with the disc's own slack
        least = math.cos(math.radians(case.sphere[2] * (1 + 1e-6)))
        blocks = create_block_mask(
            lambda b, h, i, j: (points[i] * points[j]).sum(-1) >= least, None, None, size, size, "cuda"
        )
    else:
        raise Absent(
            "a rule for pairs is written for discs on lat-lon grids only; see FlexAttention, our order"
        )
    weights = torch.as_tensor(hood.key_grid.weights.reshape(-1).copy(), device="cuda").float().log()
    compiled = torch.compile(flex_attention, dynamic=False)

    def add_weight(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + weights[j]

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = compiled(*map(heads_first, (q, k, v)), score_mod=add_weight, block_mask=blocks)
        return out.transpose(1, 2).reshape(q.shape)

    return call


def torch_harmonics(case: Case, hood: Neighborhood) -> Call:
    """Its own CUDA kernels or nothing: its torch path is another thing."""
    if case.sphere is None:
        raise Absent("it has discs on lat-lon grids only")
    from attention_helpers import cuda_kernels_is_available  # of torch-harmonics
    from torch_harmonics import NeighborhoodAttentionS2

    if not cuda_kernels_is_available():
        raise Absent("the installed build has no CUDA kernels (its wheel on PyPI is for the CPU alone)")
    nlat, nlon, radius = case.sphere
    module = NeighborhoodAttentionS2(
        case.heads * case.dim,
        (nlat, nlon),
        (nlat, nlon),
        grid_in="equiangular",
        grid_out="equiangular",
        num_heads=case.heads,
        theta_cutoff=math.radians(radius * (1 + 1e-9)) / 1.001,  # it sees keys up to 1.001 times this
        optimized_kernel=True,
    ).cuda()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = module.attention_handle(
            k.flatten(-2),
            v.flatten(-2),
            q.flatten(-2) * case.dim**-0.5,
            module.quad_weights,
            module.psi_col_idx,
            module.psi_roff_idx,
            module.psi_seg,
            module.psi_seg_off,
            case.heads,
            nlon,
            nlat,
            nlon,
        )
        return out.unflatten(-1, (case.heads, case.dim))

    return call


def natten(case: Case, hood: Neighborhood) -> Call:
    """Its own choice of kernels for the device; it adds no weights, which on planes are equal."""
    if case.window is None:
        raise Absent("it has windows on planes only")
    import natten

    call = {1: natten.na1d, 2: natten.na2d, 3: natten.na3d}[len(case.window)]
    return lambda q, k, v: call(q, k, v, kernel_size=case.window)


def _dense(backend: SDPBackend) -> Callable[[Case, Neighborhood], Call]:
    """All pairs without weights or mask: the work that the neighborhood saves."""

    def prepare(case: Case, hood: Neighborhood) -> Call:
        if hood.key_grid.size > DENSE_TOKENS:
            raise Absent(f"not run above {DENSE_TOKENS:,} tokens")

        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                out = torch.nn.functional.scaled_dot_product_attention(*map(heads_first, (q, k, v)))
            return out.transpose(1, 2).reshape(q.shape)

        return call

    return prepare


def heads_first(x: Tensor) -> Tensor:
    """``[B, H, N, D]``, a view."""
    return x.flatten(1, -3).transpose(1, 2)


#: ours, and the backend of each
BACKENDS = {"geoattn, cuda": "cuda", "geoattn, triton": "triton"}
OURS = {name: _of(backend) for name, backend in BACKENDS.items()}
#: what computes the same function
SAME = {
    "FlexAttention, our order": _of("flex"),
    "FlexAttention": flex,
    "torch-harmonics": torch_harmonics,
    "NATTEN": natten,
}
#: dense attention over all pairs of the same tokens
DENSE = {
    "dense cuDNN": _dense(SDPBackend.CUDNN_ATTENTION),
    "dense flash": _dense(SDPBackend.FLASH_ATTENTION),
}
