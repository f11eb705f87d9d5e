"""Each process takes some heads of all tokens: less moves so where halos are nearly everything."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.parallel.call import Call, Result
from geoattn.parallel.estimate import kv_heads_of_each
from geoattn.parallel.exchange import swap


def by_heads(call: Call, return_lse: bool, backend: str | None) -> Callable[[], Callable[[], Result]]:
    """Send heads on their way. There is nothing to compute meanwhile; what is returned last ends the call.

    Process r takes the r-th run of the H / n query heads, and the key and value heads that these use.
    """
    part, q, k, v, bias = call.part, call.q, call.k, call.v, call.bias
    n, rank, group = part.n, part.here, part.group
    batch, own_queries, heads, dim = q.shape
    h, kv_heads, dim_v = heads // n, k.shape[2], v.shape[3]
    own = kv_heads_of_each(heads, kv_heads, n)
    assert own is not None
    assert group is not None
    queries, keys = part.orders(q.device)
    if kv_heads < n * own:  # several processes use one
        k, v = (x.unsqueeze(3).expand(-1, -1, -1, n // kv_heads, -1).flatten(2, 3) for x in (k, v))
    sent = [x.chunk(n, 2) for x in (q, k, v)]
    shapes: list[list[tuple[int, ...]]] = [
        [(batch, m, h, dim) for m in queries.counts],
        [(batch, m, own, dim) for m in keys.counts],
        [(batch, m, own, dim_v) for m in keys.counts],
    ]
    if bias is not None:
        sent.append((bias,) * n)
        shapes.append([(bias.shape[0], m) for m in keys.counts])
    received = swap(sent, shapes, group.group_name)

    def finish() -> Result:
        all_q, *others = (torch.cat(x, 1) for x in received())
        everything = [x.index_select(1, keys.natural) for x in others]
        heads_here = slice(rank * h, (rank + 1) * h)
        scale, table = call.scale, call.table
        if isinstance(scale, Tensor) and scale.numel() > 1:
            scale = scale[heads_here]
        if table is not None:
            table = table[:, heads_here]
        out, lse = call.attend(
            all_q.index_select(1, queries.natural), everything, part.hood, backend, scale=scale, table=table
        )
        results = (out, lse) if return_lse else (out,)
        back = [torch.split(x.index_select(1, queries.by_owner), queries.counts, 1) for x in results]
        ends = [[(batch, own_queries, h, *x.shape[3:])] * n for x in results]
        found = [torch.cat(x, 2) for x in swap(back, ends, group.group_name)()]
        return found[0], found[1] if return_lse else lse

    return lambda: finish
