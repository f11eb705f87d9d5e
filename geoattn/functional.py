"""The operator in public."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from geoattn import backends, calls, derivatives, programs
from geoattn.backends.torch_private import dual_numbers, exporting
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.heads import Heads
from geoattn.operands import (
    additive,
    autocast,
    check_backend,
    check_kinds,
    check_operands,
    groups,
    pairs_of,
    require_tensor,
    scale_of,
)
from geoattn.relations.base import Relation


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    *,
    scale: float | Tensor | None = None,
    key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    relation: Relation | Sequence[Relation] | None = None,
    relation_bias: Tensor | Sequence[Tensor] | None = None,
    return_lse: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    *,
    scale: float | Tensor | None = None,
    key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    relation: Relation | Sequence[Relation] | None = None,
    relation_bias: Tensor | Sequence[Tensor] | None = None,
    return_lse: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    *,
    scale: float | Tensor | None = None,
    key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    relation: Relation | Sequence[Relation] | None = None,
    relation_bias: Tensor | Sequence[Tensor] | None = None,
    return_lse: bool,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    *,
    scale: float | Tensor | None = None,
    key_weights: Literal["quadrature"] | Tensor | None = "quadrature",
    key_bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    relation: Relation | Sequence[Relation] | None = None,
    relation_bias: Tensor | Sequence[Tensor] | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of each query over the keys of its neighborhood, weighted by the key grid's measure.

    For query i with the visible keys N(i), weights w, bias b and, for each pair, the entry of a table::

        s_ij  = scale · q_i·k_j + b_j + table[h, relation(i, j)]
        lse_i = log Σ_{j∈N(i)} w_j exp(s_ij)
        out_i = Σ_{j∈N(i)} w_j exp(s_ij − lse_i) v_j

    A query without a visible key gets out 0 and lse −∞, with zero gradients. Results and gradients
    repeat bit for bit; derivatives of any order are right.

    Parameters
    ----------
    q
        Queries ``[B, *query_grid.shape, H, D]``.
    k, v
        Keys ``[B, *key_grid.shape, H_kv, D]`` and values ``[B, *key_grid.shape, H_kv, D_v]``; H is a
        multiple of H_kv, and query head h uses key head ``h // (H // H_kv)``. float16, bfloat16,
        float32 or float64, any strides. Half precision stays half precision in memory; sums,
        ``lse`` and everything that is added per key are float32 then (float64 for float64).
    hood
        Which keys each query sees. With :func:`geoattn.heads` of n neighborhoods H and H_kv are multiples of
        n, and each n-th of the heads attends over its own.
    scale
        Factor of the dot products, ``D ** -0.5`` unless given: a number, or a floating-point tensor of one
        or ``[H]`` numbers, differentiable. A tensor is used in float32 (float64 for float64), and
        queries in half precision are not rounded by it.
    key_weights
        "quadrature" for the weights of the key grid, None for equal weights 1, or a tensor
        ``[*key_grid.shape]``, differentiable. A weight of zero hides the key.
    key_bias
        ``[*key_grid.shape]`` or ``[B, *key_grid.shape]``, added to the scores, differentiable. One of −∞
        hides the key.
    key_mask
        ``[*key_grid.shape]`` or ``[B, *key_grid.shape]``, bool, True where a key is visible.
    relation
        Which entry of ``relation_bias`` is added to the score of which pair: one of
        :mod:`geoattn.relations`, made of ``hood``. With :func:`geoattn.heads` one for each part.
    relation_bias
        ``[H, relation.count]``, ``[B, H, relation.count]``, or one table for each query
        ``[B, *query_grid.shape, H, relation.count]``, differentiable; added in float32 (float64 for float64).
        One of −∞ hides the pair. With :func:`geoattn.heads` one for each part, of the part's heads.
    return_lse
        Return ``(out, lse)``; ``lse [B, *query_grid.shape, H]`` is a natural logarithm.
    backend
        A name in ``geoattn.backends()``; None takes the first that can run these arguments.

    Returns
    -------
    Tensor or (Tensor, Tensor)
        ``out [B, *query_grid.shape, H, D_v]`` in the dtype of q.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind or dtype.
    ValueError
        If shapes, heads or devices do not fit the neighborhood or each other.
    RuntimeError
        If the named backend cannot run these arguments; :func:`explain` tells which can.

    Warns
    -----
    UserWarning
        If ``backend=None`` ends at the reference on a device that has kernels, once for each reason.

    Notes
    -----
    A key is hidden by the neighborhood, by ``key_mask``, by a weight of 0 or by a bias of −∞, and by
    nothing else: finite biases count however large they are. What a hidden key holds, in whichever
    operand, is never looked at. What is not a number elsewhere (NaN, +∞, a product q·k of −∞) reaches the
    results of all queries that see it, which are then not finite, and the gradients that it takes part in; in
    ``v`` and going backward it may also reach other queries of the same tile (each backend says how far).

    Autocast leaves operands of one dtype as they are. Where they differ under autocast (a
    normalised query in float32 beside a value in bfloat16), all are cast to autocast's dtype.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> disc = ga.geodesic(grid, radius=40)
    >>> q, k, v = torch.randn(3, 1, 8, 16, 4, 32)  # [B, *grid.shape, heads, head_dim]
    >>> out, lse = ga.attention(q, k, v, disc, return_lse=True)
    >>> out.shape, lse.shape
    (torch.Size([1, 8, 16, 4, 32]), torch.Size([1, 8, 16, 4]))
    """
    alone = key_bias is None and key_mask is None and relation is None and relation_bias is None
    if alone and not torch.compiler.is_compiling():
        found = calls.attend(q, k, v, hood, scale, key_weights, backend, return_lse)
        if found is not None:
            return found
    check_kinds(q, k, v, hood)
    q, k, v = autocast(q, k, v)
    check_operands(q, k, v, hood)
    if isinstance(hood, Heads):
        options: dict[str, Any] = {"key_weights": key_weights, "key_bias": key_bias, "key_mask": key_mask}
        outs, lses = zip(
            *(
                attention(
                    *group[:4],
                    scale=group.scale,
                    relation=group.relation,
                    relation_bias=group.relation_bias,
                    return_lse=True,
                    backend=backend,
                    **options,
                )
                for group in groups(q, k, v, hood, scale, relation, relation_bias)
            ),
            strict=True,
        )
        out = torch.cat(outs, -2)
        return (out, torch.cat(lses, -1)) if return_lse else out
    bias, quadrature = additive(q, hood, key_weights, key_bias, key_mask)
    check_backend(backend)
    factor, scales = scale_of(scale, q)
    related, table = pairs_of(relation, relation_bias, q, hood)
    _refuse_tangents(q, k, v, bias, scales, table)
    if alone and not torch.compiler.is_compiling():
        # the first call of a form too: checkpointing compares what a call saves with what it saves again
        how = hood.identity, None, factor, quadrature, backend
        calls.keep(q, k, v, hood, scale, key_weights, backend, how)
        found = calls.attend(q, k, v, hood, scale, key_weights, backend, return_lse)
        if found is not None:
            return found
    shape = q.shape[:-1]
    out, lse = derivatives.attend(
        q.flatten(1, -3),
        k.flatten(1, -3),
        v.flatten(1, -3),
        bias,
        scales,
        table,
        programs.carried(hood.identity if related is None else related.identity) if exporting() else None,
        hood.identity,
        None if related is None else related.identity,
        factor,
        quadrature,
        backend,
    )
    out = out.view(*shape, v.shape[-1])
    return (out, lse.view(shape)) if return_lse else out


def merge(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The attention over the union of disjoint key sets, from the attentions over each.

    Exact, because ``exp(lse)`` is the total weight of a set: the parts are averaged with the
    weights ``exp(lse_p − lse)``, where ``lse = log Σ_p exp(lse_p)``. Differentiable.

    Parameters
    ----------
    outs
        Outputs ``[..., D_v]``, one for each key set.
    lses
        Their log-sum-exps ``[...]``; −∞ where a set holds no visible key.

    Returns
    -------
    (Tensor, Tensor)
        ``out [..., D_v]`` and ``lse [...]`` of the union; 0 and −∞ where every part is empty.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> q, land = torch.randn(1, 8, 16, 2, 16), torch.rand(8, 16) < 0.3
    >>> far = ga.everything(grid)
    >>> parts = [ga.attention(q, q, q, far, key_mask=mask, return_lse=True) for mask in (land, ~land)]
    >>> out, lse = ga.merge(*zip(*parts))
    >>> torch.allclose(out, ga.attention(q, q, q, far), atol=1e-5)
    True
    """
    if not outs or len(outs) != len(lses):
        raise ValueError(
            f"merge takes as many outputs as lses and at least one of each, got {len(outs)} and {len(lses)}; "
            "geoattn.attention(..., return_lse=True) returns both"
        )
    for out, lse in zip(outs, lses, strict=True):
        require_tensor("outs[i]", out)
        require_tensor("lses[i]", lse)
        if out.shape != outs[0].shape or lse.shape != out.shape[:-1]:
            raise ValueError(
                f"every output must have the shape {tuple(outs[0].shape)} and every lse that shape without "
                f"its last axis; got an output {tuple(out.shape)} with an lse {tuple(lse.shape)}"
            )
    stacked = torch.stack(tuple(lses))
    top = stacked.detach().amax(0)
    dead = top == float("-inf")
    top = top.masked_fill(dead, 0.0)
    weights = (stacked - top).exp()
    total = weights.sum(0).masked_fill(dead, 1.0)
    share = (weights / total).unsqueeze(-1)
    dtype = torch.promote_types(outs[0].dtype, stacked.dtype)
    out = (share * torch.stack([o.to(dtype) for o in outs])).sum(0).to(outs[0].dtype)
    return out, (total.log() + top).masked_fill(dead, float("-inf"))


class Explanation(dict[str, str]):
    """Backend name → "chosen", "could run" or the reason for its refusal, in the order of trial."""

    @property
    def chosen(self) -> str:
        """Name of the backend that the call would run on."""
        return next(name for name, state in self.items() if state == "chosen")

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {state}" for name, state in self.items())


def explain(
    q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood, relation: Relation | None = None
) -> Explanation:
    """Which backend ``attention(q, k, v, hood, relation=relation, …)`` runs on, and why not on the others.

    Examples
    --------
    >>> grid = ga.grids.gaussian(8, 16)
    >>> q = torch.zeros(1, 8, 16, 2, 16)
    >>> ga.explain(q, q, q, ga.geodesic(grid, radius=40)).chosen
    'cpu'
    """
    check_kinds(q, k, v, hood)
    q, k, v = autocast(q, k, v)
    check_operands(q, k, v, hood)
    if isinstance(hood, Heads):
        raise TypeError(
            f"{hood!r} runs part by part, and backends may differ; say explain(q, k, v, hood.parts[0])"
        )
    q, k, v = (x.flatten(1, -3) for x in (q, k, v))
    tried = backends.automatic(q)
    found: dict[str, str] = {}
    for name in (*tried, *(n for n in backends.KNOWN if n not in tried)):
        reason = backends.refusal(name, q, k, v, hood, relation)
        if reason is None:
            reason = "could run" if "chosen" in found.values() or name not in tried else "chosen"
        found[name] = reason
    return Explanation(found)


def _refuse_tangents(*tensors: Tensor | None) -> None:
    """An op without a forward-mode rule would drop tangents in silence."""
    if torch.compiler.is_compiling() or not dual_numbers():
        return
    for x in tensors:
        if x is not None and unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            derivatives.no_tangents()
