"""The operator in public: argument checks, and the one vector into which all per-key terms fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import lcm
from numbers import Real
from typing import Any, Literal, NoReturn, overload

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from geoattn import backends, derivatives, ops, programs
from geoattn.backends.base import accumulation_dtype
from geoattn.backends.torch_private import dual_numbers, exporting
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.heads import Heads
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
    """
    _check_kinds(q, k, v, hood)
    q, k, v = _autocast(q, k, v)
    _check_operands(q, k, v, hood)
    if isinstance(hood, Heads):
        options = {"key_weights": key_weights, "key_bias": key_bias, "key_mask": key_mask}
        by_part = _of_parts(hood, relation, relation_bias)
        out, lse = _by_parts(q, k, v, hood, scale, by_part, backend=backend, **options)
        return (out, lse) if return_lse else out
    bias, quadrature = _additive(q, hood, key_weights, key_bias, key_mask)
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend must be a name in geoattn.backends() or None, got {type(backend).__name__}")
    factor, scales = _scale(scale, q)
    related, table = _pairs(relation, relation_bias, q, hood)
    _refuse_tangents(q, k, v, bias, scales, table)
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


def _by_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Heads,
    scale: float | Tensor | None,
    related: Sequence[tuple[Relation, Tensor] | tuple[None, None]],
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Attention of each group of heads over its own neighborhood."""
    n, heads, kv_heads = len(hood.parts), q.shape[-2], k.shape[-2]
    if kv_heads % n:
        common = lcm(kv_heads, n)
        repeats = f"({common // kv_heads}, -2)"
        raise ValueError(
            f"the {kv_heads} key and value heads must be a multiple of the {n} neighborhoods of {hood!r}; "
            + (
                f"{n} does not divide the {heads} query heads either, so take other numbers of both"
                if heads % common
                else f"repeat them, k.repeat_interleave{repeats} and v.repeat_interleave{repeats}"
            )
        )
    _scale(scale, q)
    by_head = isinstance(scale, Tensor) and scale.numel() == heads
    scales = scale.view(heads).chunk(n) if by_head else (scale,) * n  # type: ignore[union-attr]
    groups = zip(*(x.chunk(n, -2) for x in (q, k, v)), hood.parts, scales, related, strict=True)
    outs, lses = zip(
        *(
            attention(*operands, scale=factor, relation=rel, relation_bias=table, return_lse=True, **options)
            for *operands, factor, (rel, table) in groups
        ),
        strict=True,
    )
    return torch.cat(outs, -2), torch.cat(lses, -1)


def _of_parts(
    hood: Heads, relation: object, relation_bias: object
) -> list[tuple[Relation, Tensor]] | list[tuple[None, None]]:
    """A relation and a table for each group of heads."""
    n = len(hood.parts)
    if relation is None and relation_bias is None:
        return [(None, None)] * n
    for name, several in (("relation", relation), ("relation_bias", relation_bias)):
        if not isinstance(several, Sequence) or len(several) != n:
            raise TypeError(
                f"{hood!r} takes one {name} for each of its {n} parts, in a tuple, got "
                f"{type(several).__name__}; make relations of the parts, as in "
                "geoattn.relations.edges(hood.parts[0])"
            )
    return list(zip(relation, relation_bias, strict=True))  # type: ignore[call-overload, no-any-return]


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
    """
    if not outs or len(outs) != len(lses):
        raise ValueError(
            f"merge takes as many outputs as lses and at least one of each, got {len(outs)} and {len(lses)}; "
            "geoattn.attention(..., return_lse=True) returns both"
        )
    for out, lse in zip(outs, lses, strict=True):
        _require_tensor("outs[i]", out)
        _require_tensor("lses[i]", lse)
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
    """Which backend ``attention(q, k, v, hood, relation=relation, …)`` runs on, and why not on the others."""
    _check_kinds(q, k, v, hood)
    q, k, v = _autocast(q, k, v)
    _check_operands(q, k, v, hood)
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


def _autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if q.dtype == k.dtype == v.dtype or not torch.is_autocast_enabled(q.device.type):
        return q, k, v
    dtype = torch.get_autocast_dtype(q.device.type)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def _check_kinds(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> None:
    if not isinstance(hood, Neighborhood):
        raise TypeError(
            f"the fourth argument must be a neighborhood, got {type(hood).__name__}; make one with "
            "geoattn.geodesic(grid, radius=…), geoattn.window(grid, size), geoattn.everything(grid), …"
        )
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        for name, x in (("q", q), ("k", k), ("v", v)):
            _require_tensor(name, x)


def _require_tensor(name: str, x: object) -> None:
    """Refuse what is no tensor with the call that makes one of it."""
    if isinstance(x, Tensor):
        return
    kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}".removeprefix("builtins.")
    call = f"torch.as_tensor({name})"
    if hasattr(x, "values") and hasattr(x, "dims"):  # xarray
        call = f"torch.as_tensor({name}.values)"
    raise TypeError(f"{name} must be a torch tensor, got {kind}; make one with {call}")


def _check_operands(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> None:
    """Refuse operands that do not fit; one comparison where they do, because this runs at every call."""
    of_q, of_k, of_v = q.shape, k.shape, v.shape
    dtype, device, kv_heads = q.dtype, q.device, of_k[-2]
    fits = (
        of_q[1:-2] == hood.query_grid.shape
        and of_k[1:-2] == hood.key_grid.shape
        and of_k[0] == of_q[0]
        and of_k[-1] == of_q[-1]
        and of_v[:-1] == of_k[:-1]
        and k.dtype is dtype
        and v.dtype is dtype
        and dtype.is_floating_point
        and k.device == device
        and v.device == device
        and kv_heads > 0
        and of_q[-2] > 0
        and of_q[-2] % kv_heads == 0
        and of_q[-1] > 0
        and of_v[-1] > 0
    )
    if not fits:
        _refuse_operands(q, k, v, hood)


def _refuse_operands(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> NoReturn:
    """Raise the error that says what is wrong with the operands."""
    for name, x, grid, side, heads in (
        ("q", q, hood.query_grid, "query", "H, D"),
        ("k", k, hood.key_grid, "key", "H_kv, D"),
        ("v", v, hood.key_grid, "key", "H_kv, D_v"),
    ):
        if x.ndim != len(grid.shape) + 3 or tuple(x.shape[1:-2]) != grid.shape:
            raise ValueError(
                f"{name} must be [B, {', '.join(map(str, grid.shape))}, {heads}] "
                f"on the {side} grid {grid!r}, got shape {tuple(x.shape)}{_hint(name, x, grid)}"
            )
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(
            f"q, k and v must have one dtype, got {q.dtype}, {k.dtype} and {v.dtype}; convert them with .to()"
        )
    if not q.dtype.is_floating_point:
        raise TypeError(f"q, k and v must be floating point, got {q.dtype}; convert them with .float()")
    if not q.device == k.device == v.device:
        raise ValueError(
            f"q, k and v must be on one device, got {q.device}, {k.device} and {v.device}; "
            "move them with .to()"
        )
    if not q.shape[0] == k.shape[0] == v.shape[0]:
        raise ValueError(
            f"q, k and v must have one batch size, got {q.shape[0]}, {k.shape[0]} and {v.shape[0]}"
        )
    if k.shape[-1] != q.shape[-1]:
        raise ValueError(f"q and k must have one head dimension, got {q.shape[-1]} and {k.shape[-1]}")
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"k and v must have the same heads, got {k.shape[-2]} and {v.shape[-2]}")
    if not q.shape[-1] or not v.shape[-1]:
        raise ValueError(
            f"head dimensions must be at least 1, got {q.shape[-1]} for q and k, {v.shape[-1]} for v"
        )
    raise ValueError(
        f"the {q.shape[-2]} query heads must be a positive multiple of the {k.shape[-2]} key and value heads"
    )


def _hint(name: str, x: Tensor, grid: Grid) -> str:
    """The call that gives an operand its shape, where it only lies in another order."""
    axes, rank = grid.shape, len(grid.shape)
    if x.ndim == rank + 3 and tuple(x.shape[2:-1]) == axes:
        return f"; heads come after the grid: {name}.movedim(1, -2)"
    if rank > 1 and x.ndim == 4 and x.shape[1] == grid.size:
        return f"; tokens lie on the axes of the grid: {name}.unflatten(1, {axes})"
    if rank > 1 and x.ndim == 4 and x.shape[2] == grid.size:
        return f"; heads come after the grid: {name}.movedim(1, -2).unflatten(1, {axes})"
    return ""


def _refuse_tangents(*tensors: Tensor | None) -> None:
    """An op without a forward-mode rule would drop tangents in silence."""
    if torch.compiler.is_compiling() or not dual_numbers():
        return
    for x in tensors:
        if x is not None and unpack_dual(x).tangent is not None:  # type: ignore[no-untyped-call]
            derivatives.no_tangents()


def _additive(
    q: Tensor,
    hood: Neighborhood,
    key_weights: str | Tensor | None,
    key_bias: Tensor | None,
    key_mask: Tensor | None,
) -> tuple[Tensor | None, bool]:
    """Caller's per-key terms as one vector ``[B or 1, Nk]`` or None, and whether to add log-weights."""
    quadrature = isinstance(key_weights, str)
    if quadrature and key_weights != "quadrature":
        raise ValueError(
            f'key_weights must be "quadrature", None or a tensor of positive weights, got {key_weights!r}'
        )
    if quadrature and key_bias is None and key_mask is None:
        return None, True
    dtype = accumulation_dtype(q.dtype)
    bias = mask = None
    if key_mask is not None:
        mask = _per_key("key_mask", key_mask, q, hood, batched=True)
        if mask.dtype != torch.bool:
            raise TypeError(
                f"key_mask must be bool, True where a key is visible, got {mask.dtype}; "
                "add numbers to the scores with key_bias"
            )
    if isinstance(key_weights, Tensor):
        weights = _per_key("key_weights", key_weights, q, hood, batched=False)
        if not weights.is_floating_point():
            raise TypeError(f"key_weights must be floating point, got {weights.dtype}")
        if mask is not None:
            weights = torch.where(mask.any(0), weights, 0.0)  # hidden from all, these may be anything
        if _readable(weights) and not (weights >= 0).all():
            raise ValueError(
                f"key_weights must not be negative or NaN, the smallest is {weights.min().item()}; "
                "hide a key with weight 0 or with key_mask"
            )
        # the logarithm first: what dtype cannot hold, its logarithm can
        weights = weights.to(torch.promote_types(weights.dtype, dtype))
        hidden = weights == 0
        bias = torch.where(hidden, float("-inf"), weights.masked_fill(hidden, 1.0).log()).to(dtype)
    elif key_weights is not None and not quadrature:
        raise TypeError(
            f'key_weights must be "quadrature", None or a tensor, got {type(key_weights).__name__}; '
            "make a tensor of it with torch.as_tensor(…)"
        )
    if key_bias is not None:
        rows = _per_key("key_bias", key_bias, q, hood, batched=True)
        if not rows.is_floating_point():
            raise TypeError(f"key_bias must be floating point, got {rows.dtype}; hide keys with key_mask")
        rows = _narrowed("key_bias", rows, dtype)
        bias = rows if bias is None else ops.combined(bias, rows)
    if mask is not None:
        if bias is None:
            bias = q.new_zeros(1, mask.shape[1], dtype=dtype)
        bias = torch.where(mask, bias, float("-inf"))
    return bias, quadrature


def _readable(x: Tensor) -> bool:
    """Whether a tensor's numbers can be looked at without stalling a device or breaking a trace."""
    return x.device.type == "cpu" and not (torch.compiler.is_compiling() or derivatives.in_functorch())


def _narrowed(name: str, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A bias in the accumulation dtype; one that this cannot hold must not become −∞, which hides."""
    narrow = bias.to(dtype)
    if torch.promote_types(bias.dtype, dtype) == dtype:
        return narrow
    lost = narrow.isinf() & bias.isfinite()
    if _readable(bias):
        if lost.any():
            raise ValueError(
                f"{name} holds {bias[lost][0].item():g}, more than {dtype} can, in which scores are added "
                "here; hide keys with key_mask, or with a bias of -inf"
            )
        return narrow
    return narrow.masked_fill(lost, float("nan"))


def _scale(scale: float | Tensor | None, q: Tensor) -> tuple[float, Tensor | None]:
    """The factor of the dot products as a number, or in its place a tensor ``[1, H]``."""
    heads = q.shape[-2]
    if scale is None:
        return q.shape[-1] ** -0.5, None
    if isinstance(scale, Tensor):
        if not scale.is_floating_point():
            raise TypeError(
                f"scale must be floating point, got a tensor of {scale.dtype}; convert it with .float()"
            )
        if scale.device != q.device:
            raise ValueError(f"scale is on {scale.device} but q is on {q.device}; move it with .to(q.device)")
        if tuple(scale.shape) not in ((), (1,), (heads,)):
            raise ValueError(
                f"scale must hold one number or one for each of the {heads} heads, [{heads}], got shape "
                f"{tuple(scale.shape)}"
            )
        return 1.0, scale.to(accumulation_dtype(q.dtype)).expand(heads).unsqueeze(0).contiguous()
    if isinstance(scale, bool) or not isinstance(scale, (Real, torch.SymFloat, torch.SymInt)):
        raise TypeError(
            f"scale must be a number, a tensor of one or [H] numbers, or None, got {type(scale).__name__}; "
            "make a tensor of an array with torch.as_tensor(…)"
        )
    if not math.isfinite(scale):
        raise ValueError(f"scale must be a finite number, got {scale!r}")
    return float(scale), None


def _pairs(
    relation: object, relation_bias: object, q: Tensor, hood: Neighborhood
) -> tuple[Relation | None, Tensor | None]:
    """The relation, and its table as ``[B or 1, H, count]`` or ``[B, Nq, H, count]``."""
    if relation is None and relation_bias is None:
        return None, None
    if not isinstance(relation, Relation):
        raise TypeError(
            f"relation must be a relation on the edges of {hood!r}, got {relation!r}; make one with "
            "geoattn.relations.edges(hood), geoattn.relations.labels(hood, values), …"
        )
    if relation.hood.identity != hood.identity:
        raise ValueError(
            f"relation is {relation!r}, and the call attends over {hood!r}; give the numbers that its "
            "edges have there: relation.on(hood)"
        )
    count, heads = relation.count, q.shape[-2]
    if not isinstance(relation_bias, Tensor):
        if relation_bias is None:
            raise TypeError(
                f"relation needs relation_bias, a table [H, {count}] of a bias for each head and each of "
                f"its {count} numbers; start with torch.zeros({heads}, {count})"
            )
        _require_tensor("relation_bias", relation_bias)
    table: Tensor = relation_bias  # type: ignore[assignment]
    if not table.is_floating_point():
        raise TypeError(
            f"relation_bias must be floating point, got a tensor of {table.dtype}; convert it with .float()"
        )
    if table.device != q.device:
        raise ValueError(
            f"relation_bias is on {table.device} but q is on {q.device}; move it with .to(q.device)"
        )
    shape, end = tuple(table.shape), (heads, count)
    if shape == end:
        table = table.unsqueeze(0)
    elif shape == (*q.shape[:-2], *end):
        table = table.flatten(1, -3)
    elif not (len(shape) == 3 and shape[1:] == end and shape[0] in (1, q.shape[0])):
        grid = ", ".join(map(str, hood.query_grid.shape))
        raise ValueError(
            f"relation_bias must be [{heads}, {count}], [{q.shape[0]}, {heads}, {count}] or "
            f"[{q.shape[0]}, {grid}, {heads}, {count}] for the {count} numbers of {relation!r}, "
            f"got shape {shape}"
        )
    return relation, _narrowed("relation_bias", table, accumulation_dtype(q.dtype))


def _per_key(name: str, x: Tensor, q: Tensor, hood: Neighborhood, *, batched: bool) -> Tensor:
    """A per-key argument as ``[B or 1, Nk]``."""
    axes, batch = hood.key_grid.shape, q.shape[0]
    _require_tensor(name, x)
    if x.device != q.device:
        raise ValueError(f"{name} is on {x.device} but q is on {q.device}; move it with .to(q.device)")
    shape = tuple(x.shape)
    if len(shape) == len(axes) and shape == axes:  # a batch of any size is compared with none
        return x.reshape(1, -1)
    if batched and shape[1:] == axes and shape[0] in (1, batch):
        return x.reshape(shape[0], -1) if shape[0] else x.reshape(0, hood.key_grid.size)
    allowed = f"[{', '.join(map(str, axes))}]"
    if batched:
        allowed += f" or [{', '.join(map(str, (batch, *axes)))}]"
    flat = len(axes) > 1 and shape and shape[-1] == hood.key_grid.size
    hint = f"; keys lie on the axes of the grid: {name}.unflatten(-1, {axes})" if flat else ""
    raise ValueError(f"{name} must be {allowed} on the key grid {hood.key_grid!r}, got shape {shape}{hint}")
