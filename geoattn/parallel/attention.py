"""The operator on local tensors: each process computes its queries, and the halo travels meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, overload

import torch
from torch import Tensor

from geoattn.neighborhoods.heads import Heads
from geoattn.operands import (
    Group,
    Options,
    additive,
    autocast,
    check_backend,
    check_kinds,
    check_operands,
    groups,
    pairs_of,
    scale_of,
)
from geoattn.parallel.agreement import agreed
from geoattn.parallel.by_halo import by_halo
from geoattn.parallel.by_heads import by_heads
from geoattn.parallel.call import Call, Result
from geoattn.parallel.partition import Partition
from geoattn.relations.base import Relation


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: Partition,
    *,
    return_lse: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def attention(
    q: Tensor, k: Tensor, v: Tensor, part: Partition, *, return_lse: Literal[True], **options: Unpack[Options]
) -> Result: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: Partition,
    *,
    return_lse: bool = False,
    **options: Unpack[Options],
) -> Tensor | Result:
    """:func:`geoattn.attention` of a whole that is divided among processes, each with local tensors.

    All processes of the partition make this call, and their backward passes, in one order. Keys and values
    that others need travel in one exchange; queries whose keys are all at home are computed meanwhile, the
    others after. Where it moves fewer bytes in all, the processes exchange heads instead, and each computes
    some heads of all tokens: ``part.estimate(…).exchange`` says which. Results are those of the whole but
    for rounding, and repeat bit for bit.

    Parameters
    ----------
    q
        Queries ``[B, n_local, H, D]`` of this process: ``part.shard_queries`` of the whole, and likewise
        whatever is per query.
    k, v
        Keys ``[B, n_local, H_kv, D]`` and values ``[B, n_local, H_kv, D_v]``: ``part.shard_keys``.
    part
        Made by :func:`geoattn.parallel.partition` of a process group.
    return_lse
        As in :func:`geoattn.attention`.
    **options
        These:

    Other Parameters
    ----------------
    key_weights, key_bias, key_mask : Tensor or None
        As in :func:`geoattn.attention`, local: ``[n_local]``, or ``[B, n_local]``.
    relation : Relation or None
        One of the whole neighborhood.
    relation_bias : Tensor or None
        A table for all, the same on every process, or one for each local query,
        ``[B, n_local, H, relation.count]``.
    scale : float, Tensor or None
        As in :func:`geoattn.attention`; a tensor is the same on every process.
    backend : str or None
        As in :func:`geoattn.attention`.

    Returns
    -------
    Tensor or (Tensor, Tensor)
        ``out [B, n_local, H, D_v]``; ``lse [B, n_local, H]``.

    Raises
    ------
    TypeError, ValueError
        As :func:`geoattn.attention`.
    RuntimeError
        If the partition has no process group; on every process, if one refuses its arguments, or they differ
        in dtype, heads or options. That is compared when a call is the first of its kind; what one process
        refuses after its first call is raised there alone.

    Notes
    -----
    The gradient of what is the same on every process, a tensor ``scale`` or a table, is the part of this
    process's queries: add them up. Derivatives of any order are right; ``torch.func`` is not supported.

    Examples
    --------
    >>> import torch.distributed as dist
    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> part = ga.parallel.partition(ga.geodesic(ga.grids.gaussian(8, 16), radius=40), dist.group.WORLD)
    >>> q = torch.randn(1, 128, 2, 16)  # [B, n_local, heads, head_dim]
    >>> ga.parallel.attention(q, q, q, part).shape
    torch.Size([1, 128, 2, 16])
    >>> dist.destroy_process_group()
    """
    if not isinstance(part, Partition):
        raise TypeError(
            f"the fourth argument must be a partition, got {type(part).__name__}; make one with "
            "geoattn.parallel.partition(hood, group)"
        )
    part.here  # noqa: B018 - refuses an estimate
    calls: list[Call] = []
    failure: Exception | None = None
    try:
        calls = _calls(q, k, v, part, **options)
    except Exception as error:  # the others learn of it, where this is the first such call
        failure = error
    if not torch.compiler.is_compiling():
        _settle(part, calls, return_lse, failure)
    elif failure is not None:
        raise failure
    # all that has to travel departs before anything is computed
    backend = options.get("backend")
    begun = [
        (by_heads if call.exchange(return_lse) == "heads" else by_halo)(call, return_lse, backend)
        for call in calls
    ]
    at_home = [compute() for compute in begun]
    outs, lses = zip(*(finish() for finish in at_home), strict=True)
    out = torch.cat(outs, -2) if len(calls) > 1 else outs[0]
    if not return_lse:
        return out
    return out, torch.cat(lses, -1) if len(calls) > 1 else lses[0]


def _calls(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: Partition,
    *,
    scale: float | Tensor | None = None,
    key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    relation: Relation | Sequence[Relation] | None = None,
    relation_bias: Tensor | Sequence[Tensor] | None = None,
    backend: str | None = None,  # which one is of no concern to the others
) -> list[Call]:
    """The call, checked, for each group of heads that has a neighborhood of its own."""
    check_kinds(q, k, v, part.hood)
    q, k, v = autocast(q, k, v)
    for name, x, grid, side in (
        ("q", q, part.hood.query_grid, "queries"),
        ("k", k, part.hood.key_grid, "keys"),
        ("v", v, part.hood.key_grid, "keys"),
    ):
        held = part.held(grid)
        if x.ndim != 4 or x.shape[1] != held:
            raise ValueError(
                f"{name} must be [B, {held}, heads, dim] on process {part.here} of {part.n}, which holds "
                f"{held} of the {grid.size} {side} on {grid!r}, got shape {tuple(x.shape)}; of a whole "
                f"tensor take part.shard_{side}({name})"
            )
    check_operands(q, k, v, part.home)
    bias, quadrature = additive(q, part.home, key_weights, key_bias, key_mask)
    check_backend(backend)
    if isinstance(part.hood, Heads):
        some = groups(q, k, v, part.hood, scale, relation, relation_bias)
    else:
        scale_of(scale, q)
        some = [Group(q, k, v, part.hood, scale, relation, relation_bias)]  # type: ignore[arg-type]
    calls = []
    for group, own in zip(some, part.parts or (part,), strict=True):
        rel, table = pairs_of(group.relation, group.relation_bias, group.q, group.hood)
        calls.append(Call(group.q, group.k, group.v, bias, quadrature, group.scale, rel, table, own))
    return calls


def _settle(part: Partition, calls: list[Call], return_lse: bool, failure: Exception | None) -> None:
    """Compare a call with those of the other processes, where it is the first of its kind."""
    said = (*(call.words for call in calls), return_lse)
    if failure is not None and part.settled:
        raise failure  # the others may be in a call that they know, and would never answer
    if failure is None and said in part.settled:
        return
    assert part.group is not None
    if part.group.size() > 1:
        agreed(part.group, "a call of geoattn.parallel.attention", said, None, failure)
    elif failure is not None:
        raise failure
    part.settled.add(said)
