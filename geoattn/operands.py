"""What a call of the operator is given: checked, and brought to the form in which backends take it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Literal, NamedTuple, NoReturn, TypedDict

import torch
from torch import Tensor

from geoattn import derivatives, ops
from geoattn.backends.base import accumulation_dtype, is_computed
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood, require_neighborhood
from geoattn.neighborhoods.heads import Heads
from geoattn.relations.base import Relation


class Options(TypedDict, total=False):
    """What a call takes beside q, k, v and what is attended over; :func:`geoattn.attention` explains them."""

    scale: float | Tensor | None
    key_weights: Literal["quadrature"] | Tensor | None
    key_bias: Tensor | None
    key_mask: Tensor | None
    relation: Relation | Sequence[Relation] | None
    relation_bias: Tensor | Sequence[Tensor] | None
    backend: str | None


def check_kinds(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> None:
    if not isinstance(hood, Neighborhood):
        require_neighborhood("hood", hood)
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        for name, x in (("q", q), ("k", k), ("v", v)):
            require_tensor(name, x)


def autocast(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if q.dtype == k.dtype == v.dtype or not torch.is_autocast_enabled(q.device.type):
        return q, k, v
    dtype = torch.get_autocast_dtype(q.device.type)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def check_operands(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> None:
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
        and is_computed(dtype)
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


def require_tensor(name: str, x: object) -> None:
    """Refuse what is no tensor with the call that makes one of it."""
    if isinstance(x, Tensor):
        return
    kind = f"{type(x).__module__.split('.')[0]}.{type(x).__name__}".removeprefix("builtins.")
    call = f"torch.as_tensor({name})"
    if hasattr(x, "data_vars"):
        call = f"torch.as_tensor({name}[…].values) of one of its variables"
    elif hasattr(x, "values") and hasattr(x, "dims"):  # xarray
        call = f"torch.as_tensor({name}.values)"
    raise TypeError(f"{name} must be a torch tensor, got {kind}; make one with {call}")


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
    if not is_computed(q.dtype):
        raise TypeError(
            f"q, k and v must be floating point of 16 to 64 bits, got {q.dtype}; convert them with .float()"
        )
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
    if rank == 2 and x.ndim == 5 and tuple(x.shape[1:3]) == axes[::-1]:
        return f"; the axes of the grid are the other way round: {name}.transpose(1, 2)"
    if x.ndim == rank + 2 and tuple(x.shape[1:-1]) == axes:
        return f"; heads have an axis of their own, here for a head of 16: {name}.unflatten(-1, (-1, 16))"
    return ""


def additive(
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
        if not is_computed(weights.dtype):
            raise TypeError(f"key_weights must be floating point of 16 to 64 bits, got {weights.dtype}")
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
        if not is_computed(rows.dtype):
            raise TypeError(
                f"key_bias must be floating point of 16 to 64 bits, got {rows.dtype}; hide keys with key_mask"
            )
        rows = _narrowed("key_bias", rows, dtype)
        bias = rows if bias is None else ops.combined(bias, rows)
    if mask is not None:
        if bias is None:
            bias = q.new_zeros(1, mask.shape[1], dtype=dtype)
        bias = torch.where(mask, bias, float("-inf"))
    return bias, quadrature


def _per_key(name: str, x: Tensor, q: Tensor, hood: Neighborhood, *, batched: bool) -> Tensor:
    """A per-key argument as ``[B or 1, Nk]``."""
    axes, batch = hood.key_grid.shape, q.shape[0]
    require_tensor(name, x)
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


def scale_of(scale: float | Tensor | None, q: Tensor) -> tuple[float, Tensor | None]:
    """The factor of the dot products as a number, or in its place a tensor ``[1, H]``."""
    heads = q.shape[-2]
    if scale is None:
        return q.shape[-1] ** -0.5, None
    if isinstance(scale, Tensor):
        if not is_computed(scale.dtype):
            raise TypeError(
                f"scale must be floating point of 16 to 64 bits, got a tensor of {scale.dtype}; "
                "convert it with .float()"
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


def pairs_of(
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
        require_tensor("relation_bias", relation_bias)
    table: Tensor = relation_bias  # type: ignore[assignment]
    if not is_computed(table.dtype):
        raise TypeError(
            f"relation_bias must be floating point of 16 to 64 bits, got a tensor of {table.dtype}; "
            "convert it with .float()"
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


class Group(NamedTuple):
    """A group of heads that attends over one neighborhood, and what it takes of a call."""

    q: Tensor
    k: Tensor
    v: Tensor
    hood: Neighborhood
    scale: float | Tensor | None
    relation: Relation | None
    relation_bias: Tensor | None


def groups(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Heads,
    scale: float | Tensor | None,
    relation: object,
    relation_bias: object,
) -> list[Group]:
    """The operands of each group of heads that has a neighborhood of its own."""
    n, heads, kv_heads = len(hood.parts), q.shape[-2], k.shape[-2]
    related = of_parts(hood, relation, relation_bias)
    if kv_heads % n:
        common = math.lcm(kv_heads, n)
        repeats = f"({common // kv_heads}, -2)"
        raise ValueError(
            f"the {kv_heads} key and value heads must be a multiple of the {n} neighborhoods of {hood!r}; "
            + (
                f"{n} does not divide the {heads} query heads either, so take other numbers of both"
                if heads % common
                else f"repeat them, k.repeat_interleave{repeats} and v.repeat_interleave{repeats}"
            )
        )
    scale_of(scale, q)
    by_head = isinstance(scale, Tensor) and scale.numel() == heads
    scales = scale.view(heads).chunk(n) if by_head else (scale,) * n  # type: ignore[union-attr]
    chunks = zip(*(x.chunk(n, -2) for x in (q, k, v)), strict=True)
    return [
        Group(some_q, some_k, some_v, part, factor, rel, table)
        for (some_q, some_k, some_v), part, factor, (rel, table) in zip(
            chunks, hood.parts, scales, related, strict=True
        )
    ]


def check_backend(backend: object) -> None:
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend must be a name in geoattn.backends() or None, got {type(backend).__name__}")


def of_parts(
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
