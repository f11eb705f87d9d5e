"""One attention over one neighborhood, with the local tensors of this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from geoattn.backends.base import accumulation_dtype
from geoattn.functional import attention
from geoattn.neighborhoods.base import Neighborhood
from geoattn.parallel.partition import Partition
from geoattn.relations.base import Relation

Result = tuple[Tensor, Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call, checked: operands ``[B, n_local, heads, dim]``, and what is added to the scores."""

    q: Tensor
    k: Tensor
    v: Tensor
    #: ``[B or 1, n_local]``: all that the caller adds per key
    bias: Tensor | None
    #: whether the weights of the key grid are added too
    quadrature: bool
    scale: float | Tensor | None
    relation: Relation | None
    #: ``[B or 1, H, count]``, or one table for each query, ``[B, n_local, H, count]``
    table: Tensor | None
    part: Partition

    @property
    def by_query(self) -> bool:
        """Whether each query has a table of its own."""
        return self.table is not None and self.table.ndim == 4

    def exchange(self, return_lse: bool) -> str:
        """What the processes exchange: "halo" or "heads"."""
        if self.by_query:
            return "halo"  # tables stay with their queries
        (batch, _, heads, dim), (kv_heads, dim_v) = self.q.shape, self.v.shape[2:]
        terms = 0 if self.bias is None else self.bias.shape[0]
        return self.part.exchange(batch, heads, kv_heads, dim, dim_v, self.q.dtype, terms, return_lse)

    @property
    def words(self) -> str:
        """What must be the same on all processes."""
        tensors = {"q": self.q, "k": self.k, "v": self.v, "key terms": self.bias}
        tensors |= {"scale": self.scale if isinstance(self.scale, Tensor) else None, "table": self.table}
        said = []
        for name, x in tensors.items():
            if x is not None:
                local = name in ("q", "k", "v", "key terms") or (self.by_query and name == "table")
                shape = [n if axis != 1 or not local else "n" for axis, n in enumerate(x.shape)]
                grad = " with gradient" if x.requires_grad and torch.is_grad_enabled() else ""
                said.append(f"{name} {x.dtype} {shape}{grad}".replace("'", ""))
        if not isinstance(self.scale, Tensor):
            said.append(f"scale {self.scale}")
        if self.relation is not None:
            said.append(f"{self.relation!r} ({self.relation.digest[:8]})")
        return f"{', '.join(said)}{'' if self.quadrature else ', without quadrature weights'}"

    def attend(
        self,
        q: Tensor,
        keys: Sequence[Tensor],
        hood: Neighborhood,
        backend: str | None,
        *,
        scale: float | Tensor | None,
        table: Tensor | None,
    ) -> Result:
        """Attention of some queries over some keys; ``keys`` holds k, v and, where there is one, the bias.

        Returns ``out [B, n, H, D_v]`` and ``lse [B, n, H]``.
        """
        if not hood.key_grid.size:
            return self.unseen(q, keys)
        relation = self.relation and self.part.related(self.relation, hood)
        if table is not None and table.ndim == 4:
            table = torch.unflatten(table, 1, hood.query_grid.shape)
        k, v, *bias = (torch.unflatten(x, 1, hood.key_grid.shape) for x in keys)
        out, lse = attention(
            torch.unflatten(q, 1, hood.query_grid.shape),
            k,
            v,
            hood,
            scale=scale,
            key_weights="quadrature" if self.quadrature else None,
            key_bias=bias[0] if bias else None,
            relation=relation,
            relation_bias=table,
            return_lse=True,
            backend=backend,
        )
        rank = len(hood.query_grid.shape)
        return out.flatten(1, rank), lse.flatten(1, rank)

    def unseen(self, q: Tensor, keys: Sequence[Tensor]) -> Result:
        """The results of queries that see nothing.

        Gradients of zero pass through them to all operands: other processes wait for what comes back.
        """
        batch, tokens, heads, _ = q.shape
        operands = [q, *keys, *(x for x in (self.scale, self.table) if isinstance(x, Tensor))]
        dtype = accumulation_dtype(q.dtype)
        nothing = torch.stack([x.reshape(-1)[:0].sum().to(dtype) for x in operands]).sum()
        out = nothing + q.new_zeros(batch, tokens, heads, keys[1].shape[-1], dtype=dtype)
        lse = nothing + q.new_full((batch, tokens, heads), float("-inf"), dtype=dtype)
        return out.to(q.dtype), lse
