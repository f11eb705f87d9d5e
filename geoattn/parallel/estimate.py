"""What an attention over many processes holds, computes and moves: known before anything runs."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Estimate:
    """Tokens, edges and bytes of each of n processes; made by ``part.estimate(…)``, which says of what.

    Examples
    --------
    >>> part = ga.parallel.partition(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), 4)
    >>> int(sum(part.estimate().queries))
    128
    """

    #: query and key tokens that a process holds, ``[n]``
    queries: Counts
    keys: Counts
    #: keys that it needs of others, ``[n]``
    halo: Counts
    #: its queries whose keys are all at home, ``[n]``
    interior: Counts
    #: pairs of its queries with their keys, ``[n]``
    edges: Counts
    #: what moves in a forward pass: "halo", the keys that others need, or "heads", all tokens of some heads
    exchange: str
    #: bytes that a process receives in a forward pass, ``[n]``, by either exchange
    bytes_by: dict[str, Counts]

    @property
    def received(self) -> Counts:
        """Bytes that each process receives in a forward pass, ``[n]``."""
        return self.bytes_by[self.exchange]

    @property
    def balance(self) -> float:
        """The most edges of a process beside the mean: 1 is perfect."""
        return float(self.edges.max() / max(self.edges.mean(), 1e-300))

    @property
    def share(self) -> float:
        """Halo tokens beside all the keys that others hold."""
        others = (self.keys.sum() - self.keys).sum()
        return float(self.halo.sum() / others) if others else 0.0

    def __repr__(self) -> str:
        def most(x: Counts) -> str:
            return f"{x.mean():,.0f} (at most {x.max():,})"

        inside = self.interior.sum() / max(self.queries.sum(), 1)
        return "\n".join(
            (
                f"{len(self.keys)} processes, each on average:",
                f"  keys held      {most(self.keys)}",
                f"  halo keys      {most(self.halo)}, {self.share:.1%} of all that others hold",
                f"  queries        {most(self.queries)}, {inside:.0%} of them with all keys at home",
                f"  edges          {most(self.edges)}, balance {self.balance:.3f}",
                f"  bytes received {most(self.received)} by exchange of {self.exchange}",
            )
        )


def cheaper(halo: Counts, heads: Counts | None) -> str:
    """The exchange that moves fewer bytes in all."""
    return "heads" if heads is not None and heads.sum() < halo.sum() else "halo"


def halo_bytes(halo: Counts, batch: int, kv_heads: int, dims: int, itemsize: int, bias: int) -> Counts:
    """Bytes of the halo's keys and values, of ``dims`` together, and of ``bias`` bytes for each token."""
    return halo * (batch * kv_heads * dims * itemsize + bias)


def heads_bytes(
    queries: Counts,
    keys: Counts,
    batch: int,
    heads: int,
    kv_heads: int,
    dim: int,
    dim_v: int,
    itemsize: int,
    bias: int,
    lse: int,
) -> Counts | None:
    """Bytes when each of n processes takes some of the heads of all tokens; None where heads do not divide.

    It receives the queries, keys and values that others hold, of its heads, and the results of its own
    queries for the heads of others, with ``lse`` bytes of each; ``bias`` bytes of each key that others hold.
    """
    n = len(keys)
    own = kv_heads_of_each(heads, kv_heads, n)
    if own is None:
        return None
    h = heads // n
    other_queries, other_keys = queries.sum() - queries, keys.sum() - keys
    there: Counts = other_queries * (batch * h * dim * itemsize)
    there = there + other_keys * (batch * own * (dim + dim_v) * itemsize + bias)
    there += queries * (batch * (heads - h) * (dim_v * itemsize + lse))
    return there


def kv_heads_of_each(heads: int, kv_heads: int, n: int) -> int | None:
    """How many key heads each of n processes needs for its share of the query heads.

    None where the query heads do not divide, or a share of them lies across groups.
    """
    if heads % n:
        return None
    group, h = heads // kv_heads, heads // n
    if h % group == 0:
        return h // group
    return 1 if group % h == 0 else None
