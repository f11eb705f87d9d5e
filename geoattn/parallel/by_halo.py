"""Keys and values that others need travel, while the queries with all keys at home are computed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from geoattn.parallel.call import Call, Result
from geoattn.parallel.exchange import travel


def by_halo(call: Call, return_lse: bool, backend: str | None) -> Callable[[], Callable[[], Result]]:
    """Send keys and values on their way. What is returned computes at home, and returns what ends the call.

    All processes take the same steps in the same order, those too that have nothing to send or nothing to
    compute, because the gradients come back the same way.
    """
    part, q = call.part, call.q
    places, route = part.places(q.device), part.route
    own = [call.k, call.v] if call.bias is None else [call.k, call.v, call.bias]
    received = travel(own, places.picked, route) if route else lambda: [x[:, :0] for x in own]

    def attend(queries: Tensor, keys: list[Tensor], *, outer: bool) -> Result:
        table = call.table[:, queries] if call.by_query and call.table is not None else call.table
        hood = part.outer if outer else part.inner
        some = q if len(queries) == q.shape[1] else q.index_select(1, queries)
        return call.attend(some, keys, hood, backend, scale=call.scale, table=table)

    def at_home() -> Callable[[], Result]:
        results = [attend(places.inner, own, outer=False)] if len(places.inner) else []

        def finish() -> Result:
            halo = received()
            if len(places.outer):
                near = [
                    torch.cat((x.index_select(1, places.near), y), 1) for x, y in zip(own, halo, strict=True)
                ]
                results.append(attend(places.outer, near, outer=True))
            else:
                results.append(call.unseen(q[:, :0], halo))  # takes part in the way back all the same
            if len(results) == 1:
                return results[0]
            outs, lses = zip(*results, strict=True)
            out, lse = torch.cat(outs, 1), torch.cat(lses, 1)
            if not len(places.outer):
                return out, lse
            return out.index_select(1, places.back), lse.index_select(1, places.back)

        return finish

    return at_home
