"""Keys and values that others need travel, while the queries with all keys at home are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.neighborhoods.base import Neighborhood
from geoattn.parallel.call import Call, Result
from geoattn.parallel.exchange import pick, travel


def by_halo(call: Call, return_lse: bool, backend: str | None) -> Callable[[], Callable[[], Result]]:
    """Send keys and values on their way. What is returned computes at home, and returns what ends the call.

    All processes take the same steps in the same order, those too that have nothing to send or nothing to
    compute, because the gradients come back the same way.
    """
    part, q, table = call.part, call.q, call.table
    own = [call.k, call.v] if call.bias is None else [call.k, call.v, call.bias]
    places, route = part.places(q.device), part.route

    def attend(queries: Tensor, keys: list[Tensor], hood: Neighborhood, table: Tensor | None) -> Result:
        return call.attend(queries, keys, hood, backend, scale=call.scale, table=table)

    if route is None:  # no process needs any
        return lambda: lambda: attend(q, own, part.inner, table)
    # All that is picked is picked first: going backward, what it adds to gradients is then made last, when
    # the operands of the attentions are let go.
    outer = places.outer
    some, table_of_some = q.index_select(1, outer), table
    if call.by_query and table is not None:
        table_of_some = table.index_select(1, outer)
    sizes = [len(places.near), len(places.wanted.all)]
    picked = (torch.split(pick(x, places.near_and_wanted), sizes, 1) for x in own)
    near, wanted = zip(*picked, strict=True)
    received = travel(wanted, route)

    def at_home() -> Callable[[], Result]:
        inner = attend(q, own, part.inner, table) if len(outer) < q.shape[1] else None

        def finish() -> Result:
            keys = [torch.cat(x, 1) for x in zip(near, received(), strict=True)]
            # one without outer queries takes part in the way back all the same
            found = attend(some, keys, part.outer, table_of_some) if len(outer) else call.unseen(some, keys)
            if inner is None:
                return found
            out, lse = (x.index_copy(1, outer, y) for x, y in zip(inner, found, strict=True))
            return out, lse

        return finish

    return at_home
