"""From the points of one grid to those of another."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor, nn

from geoattn.grids import Grid
from geoattn.grids.base import require_grid
from geoattn.grids.checks import integer, positive
from geoattn.grids.interpolation import average, interpolation
from geoattn.neighborhoods import Neighborhood, nearest
from geoattn.nn.attention import Attention, AttentionOptions
from geoattn.nn.checks import check_tokens
from geoattn.nn.table import Table


class Resample(nn.Module):
    """Tokens ``[B, *key_grid.shape, channels]`` to ``[B, *query_grid.shape, channels]``.

    Parameters
    ----------
    query_grid, key_grid
        Where the tokens go to, and where they come from.
    method
        - ``"interpolation"``: fixed weights of second order (see
          :func:`geoattn.grids.interpolation.interpolation`), for scalars.
        - ``"average"``: area means over the keys nearest to each query, for coarser query grids.
        - ``"attention"``: the average where the query grid has fewer points, else the
          interpolation, plus attention from that to the keys.
    dim, num_heads
        Channels and heads, for ``"attention"`` only.
    hood
        The keys that each query attends to, for ``"attention"`` only. Default: the nearest ones,
        as many as nine times the ratio of the numbers of points, at least nine.
    **attention
        Further arguments of :class:`Attention`; ``device`` and ``dtype`` for every method.
    """

    def __init__(
        self,
        query_grid: Grid,
        key_grid: Grid,
        method: str = "interpolation",
        dim: int | None = None,
        num_heads: int | None = None,
        hood: Neighborhood | None = None,
        **attention: Unpack[AttentionOptions],
    ) -> None:
        super().__init__()
        if method not in ("interpolation", "average", "attention"):
            raise ValueError(f"method must be 'interpolation', 'average' or 'attention', got {method!r}")
        require_grid("query_grid", query_grid)
        require_grid("key_grid", key_grid)
        self.query_grid, self.key_grid, self.method = query_grid, key_grid, method
        coarser = method == "attention" and query_grid.size < key_grid.size
        stencil = average if method == "average" or coarser else interpolation
        device, dtype = attention.get("device"), attention.get("dtype")
        self.weighted_sum = WeightedSum(stencil(query_grid, key_grid).matrix(key_grid.size))
        self.weighted_sum.to(device=device, dtype=dtype)
        self.attention = None
        if method != "attention":
            if not (dim is None and num_heads is None and hood is None) or attention.keys() - {
                "device",
                "dtype",
            }:
                raise ValueError(f"method {method!r} has nothing to learn; use method='attention'")
            return
        if dim is None or num_heads is None:
            raise ValueError("method 'attention' needs dim and num_heads")
        dim = integer("dim", dim)
        positive(dim=dim)
        if hood is None:
            ratio = -(-key_grid.size // query_grid.size)
            hood = nearest(query_grid, key_grid, k=min(9 * ratio, key_grid.size))
        if (hood.query_grid, hood.key_grid) != (query_grid, key_grid):
            raise ValueError(
                f"hood must lead from {key_grid!r} to {query_grid!r}, got {hood!r}; make it with both grids, "
                "ga.nearest(query_grid, key_grid, k=9)"
            )
        self.query_norm, self.key_norm = (nn.LayerNorm(dim, device=device, dtype=dtype) for _ in range(2))
        self.attention = Attention(dim, num_heads, hood, **attention)

    def forward(self, x: Tensor) -> Tensor:
        check_tokens("x", x, self.key_grid, x.shape[-1])
        out: Tensor = self.weighted_sum(x.flatten(1, -2)).reshape(len(x), *self.query_grid.shape, -1)
        if self.attention is not None:
            out = out + self.attention(self.query_norm(out), self.key_norm(x))
        return out

    def extra_repr(self) -> str:
        return f"{self.method} from {self.key_grid!r} to {self.query_grid!r}"


class WeightedSum(nn.Module):
    """out[b, i] = Σ_j matrix[i, j] x[b, j], for x ``[B, Nk, channels]`` and a sparse ``matrix [Nq, Nk]``.

    The backward pass gathers with the transposed weights, so that it repeats bit for bit. The sum
    runs in float32 at least.
    """

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.forward_tables = nn.ModuleList(_tables(matrix))
        self.backward_tables = nn.ModuleList(_tables(csr_array(matrix.T)))

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        tables = [table() for table in (*self.forward_tables, *self.backward_tables)]
        tables = [table.to(dtype) if table.is_floating_point() else table for table in tables]
        rows = x.transpose(0, 1).flatten(1).to(dtype)
        out: Tensor = _Gather.apply(rows, *tables)  # type: ignore[no-untyped-call]
        return out.to(x.dtype).reshape(-1, len(x), x.shape[2]).transpose(0, 1)


def _tables(matrix: csr_array) -> list[Table]:
    starts, keys = matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    return [Table(starts), Table(keys), Table(matrix.data)]


class _Gather(torch.autograd.Function):
    """A constant sparse matrix in compressed rows, times ``x [Nk, columns]``; its transpose is given too.

    All in one dtype: compiled by torch 2.11, a cast in here that changes nothing loses the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, starts: Tensor, keys: Tensor, weights: Tensor, *transposed: Tensor
    ) -> Tensor:
        ctx.save_for_backward(starts, keys, weights, *transposed)
        return F.embedding_bag(
            keys, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grad: Tensor = _Gather.apply(grads[0], *saved[3:], *saved[:3])  # type: ignore[no-untyped-call]
        return grad, None, None, None, None, None, None
