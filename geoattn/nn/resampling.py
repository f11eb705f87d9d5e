"""From the points of one grid to those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from geoattn.grids import Grid
from geoattn.grids.base import require_grid
from geoattn.grids.checks import integer, positive
from geoattn.grids.interpolation import average, interpolation
from geoattn.neighborhoods import Neighborhood, nearest
from geoattn.neighborhoods.edges import Edges
from geoattn.nn.attention import Attention, AttentionOptions
from geoattn.nn.checks import check_tokens
from geoattn.nn.table import Table

if TYPE_CHECKING:
    from geoattn.parallel.rows import Rows
    from geoattn.parallel.shards import Shards


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

    Examples
    --------
    >>> fine, coarse = ga.grids.gaussian(8, 16), ga.grids.healpix(2)
    >>> ga.nn.Resample(fine, coarse)(torch.randn(1, 48, 16)).shape
    torch.Size([1, 8, 16, 16])
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
        shape = (len(x), *self.query_grid.shape, x.shape[-1])
        out: Tensor = self.weighted_sum(x.flatten(1, -2)).reshape(shape)
        if self.attention is not None:
            out = out + self.attention(self.query_norm(out), self.key_norm(x))
        return out

    def neighborhoods(self) -> Sequence[Neighborhood]:
        """Each query sees the keys that its sum has; what it attends to beside that is the attention's."""
        matrix = self.weighted_sum.matrix
        return (Edges(self.query_grid, self.key_grid, matrix.indptr.astype(np.int64), matrix.indices),)

    def divide(self, shards: Shards) -> None:
        """Make the tokens of one of many processes."""
        (links,) = self.neighborhoods()
        self.weighted_sum.select(shards.tokens(self.query_grid), shards.rows(links))
        self.query_grid, self.key_grid = shards.grid(self.query_grid), shards.grid(self.key_grid)

    def extra_repr(self) -> str:
        return f"{self.method} from {self.key_grid!r} to {self.query_grid!r}"


class WeightedSum(nn.Module):
    """out[b, i] = Σ_j matrix[i, j] x[b, j], for x ``[B, Nk, channels]`` and a sparse ``matrix [Nq, Nk]``.

    The backward pass gathers with the transposed weights, so that it repeats bit for bit. The sum
    runs in float32 at least.
    """

    tokenwise = True  # the module around it divides it

    def __init__(self, matrix: csr_array) -> None:
        super().__init__()
        self.fetch: Rows | None = None
        self.forward_tables = nn.ModuleList(_tables(matrix))
        self.backward_tables = nn.ModuleList(_tables(csr_array(matrix.T)))

    def forward(self, x: Tensor) -> Tensor:
        if self.fetch is not None:
            x = self.fetch(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        tables = [table() for table in (*self.forward_tables, *self.backward_tables)]
        tables = [table.to(dtype) if table.is_floating_point() else table for table in tables]
        rows = x.transpose(0, 1).flatten(1).to(dtype)
        out: Tensor = _Gather.apply(rows, *tables)  # type: ignore[no-untyped-call]
        return out.to(x.dtype).reshape(len(out), len(x), x.shape[2]).transpose(0, 1)

    @property
    def matrix(self) -> csr_array:
        """The matrix, its rows in ascending order of columns."""
        starts, keys, weights = (table.original.numpy() for table in self.forward_tables)  # type: ignore[operator, union-attr]
        columns = len(self.backward_tables[0].original) - 1  # type: ignore[arg-type]
        matrix = csr_array((weights, keys.astype(np.int32), starts), shape=(len(starts) - 1, columns))
        matrix.sort_indices()
        return matrix

    def select(self, queries: NDArray[np.int32], rows: Rows) -> None:
        """Keep the sums of some queries, over ``rows`` of the keys, which are fetched before each sum."""
        local = csr_array(self.matrix[queries][:, rows.tokens])
        for held, matrix in ((self.forward_tables, local), (self.backward_tables, csr_array(local.T))):
            for table, new in zip(held, _tables(matrix), strict=True):
                table.replace(new.original)  # type: ignore[operator]
        self.fetch = rows


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
