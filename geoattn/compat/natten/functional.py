"""NATTEN 0.21's functions; the unfused pairs of its older releases are here too, as they were there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from geoattn import functional
from geoattn.compat._knobs import note
from geoattn.compat.natten.arguments import Flag, Size, all_pairs, flags, sizes, windows
from geoattn.compat.natten.unfused import (
    na1d_av,
    na1d_qk,
    na1d_qk_with_bias,
    na2d_av,
    na2d_qk,
    na2d_qk_with_bias,
    na3d_av,
    na3d_qk,
    na3d_qk_with_bias,
    natten1dav,
    natten1dqk,
    natten1dqkrpb,
    natten2dav,
    natten2dqk,
    natten2dqkrpb,
    natten3dav,
    natten3dqk,
    natten3dqkrpb,
)

__all__ = [
    "attention",
    "merge_attentions",
    "na1d",
    "na1d_av",
    "na1d_qk",
    "na1d_qk_with_bias",
    "na2d",
    "na2d_av",
    "na2d_qk",
    "na2d_qk_with_bias",
    "na3d",
    "na3d_av",
    "na3d_qk",
    "na3d_qk_with_bias",
    "natten1dav",
    "natten1dqk",
    "natten1dqkrpb",
    "natten2dav",
    "natten2dqk",
    "natten2dqkrpb",
    "natten3dav",
    "natten3dqk",
    "natten3dqkrpb",
    "neighborhood_attention_generic",
]

#: arguments of ``attention`` that choose kernels and tiles, with their defaults
ATTENTION_KNOBS: dict[str, Any] = {
    "backend": None,
    "q_tile_size": None,
    "kv_tile_size": None,
    "backward_q_tile_size": None,
    "backward_kv_tile_size": None,
    "backward_kv_splits": None,
    "backward_use_pt_reduction": False,
    "run_persistent_kernel": True,
    "kernel_schedule": None,
    "torch_compile": False,
}
#: the same of ``na1d``, ``na2d`` and ``na3d``
WINDOW_KNOBS: dict[str, Any] = {
    name.replace("tile_size", "tile_shape"): x for name, x in ATTENTION_KNOBS.items()
}

Result = Tensor | tuple[Tensor, Tensor]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_causal: bool = False,
    scale: float | None = None,
    seqlens_Q: Tensor | None = None,
    seqlens_KV: Tensor | None = None,
    cumulative_seqlen_Q: Tensor | None = None,
    cumulative_seqlen_KV: Tensor | None = None,
    max_seqlen_Q: int | None = None,
    max_seqlen_KV: int | None = None,
    backend: str | None = None,
    q_tile_size: int | None = None,
    kv_tile_size: int | None = None,
    backward_q_tile_size: int | None = None,
    backward_kv_tile_size: int | None = None,
    backward_kv_splits: int | None = None,
    backward_use_pt_reduction: bool = False,
    run_persistent_kernel: bool = True,
    kernel_schedule: Any = None,
    torch_compile: bool = False,
    return_lse: bool = False,
) -> Result:
    """``natten.attention``: each query sees every key, or those up to its own place.

    Parameters
    ----------
    query
        ``[B, N, H, D]``.
    key, value
        ``[B, M, H_kv, D]`` and ``[B, M, H_kv, D_v]``.
    is_causal
        Query i sees keys 0 … i, whatever N and M.
    scale
        ``D ** -0.5`` where None or 0, as in NATTEN.
    seqlens_Q, seqlens_KV
        Lengths of sequences that lie one after the other in a batch of one.
    cumulative_seqlen_Q, cumulative_seqlen_KV
        The same as running sums from 0. ``max_seqlen_Q`` and ``max_seqlen_KV`` follow from them.
    return_lse
        Also return the log-sum-exp ``[B, N, H]``.

    Raises
    ------
    ValueError
        If the operands do not fit each other, or lengths are given of one side only.

    Examples
    --------
    >>> q, k, v = torch.randn(3, 1, 10, 2, 16)  # [B, L, heads, head_dim]
    >>> ga.compat.natten.attention(q, k, v, is_causal=True).shape
    torch.Size([1, 10, 2, 16])
    """
    given = locals()
    note("NATTEN", {name: given[name] for name in ATTENTION_KNOBS}, ATTENTION_KNOBS)
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.ndim != 4:
            raise ValueError(f"{name} must be [B, tokens, heads, channels], got shape {tuple(x.shape)}")
    for name in ("seqlens", "cumulative_seqlen"):
        if (given[f"{name}_Q"] is None) != (given[f"{name}_KV"] is None):
            raise ValueError(f"{name}_Q and {name}_KV come together, and one of them is None")
    if (max_seqlen_Q or max_seqlen_KV) and seqlens_Q is None and cumulative_seqlen_Q is None:
        raise ValueError(
            f"max_seqlen_Q={max_seqlen_Q} and max_seqlen_KV={max_seqlen_KV} come with cumulative_seqlen_Q "
            "and cumulative_seqlen_KV, which are None"
        )
    at_q = _bounds("Q", seqlens_Q, cumulative_seqlen_Q, query)
    at_k = _bounds("KV", seqlens_KV, cumulative_seqlen_KV, key)
    if len(at_q) != len(at_k):
        raise ValueError(f"as many sequences of queries as of keys, got {len(at_q) - 1} and {len(at_k) - 1}")
    parts = [
        _dense(query[:, a:b], key[:, c:d], value[:, c:d], is_causal, scale)
        for (a, b), (c, d) in zip(pairwise(at_q), pairwise(at_k), strict=True)
        if a < b
    ]
    if not parts:
        raise ValueError(f"no query in any sequence of {tuple(query.shape)}")
    out, lse = parts[0] if len(parts) == 1 else tuple(torch.cat(p, dim=1) for p in zip(*parts, strict=True))
    return (out, lse) if return_lse else out


def _bounds(side: str, lengths: Tensor | None, sums: Tensor | None, x: Tensor) -> list[int]:
    """Where sequences begin and end in x."""
    if lengths is None and sums is None:
        return [0, x.shape[1]]
    if x.shape[0] != 1:
        raise ValueError(f"sequences of lengths of their own lie in a batch of one, got {x.shape[0]}")
    if sums is not None:
        at = [int(n) for n in sums.tolist()]
    else:
        at = [0, *(int(n) for n in lengths.cumsum(0).tolist())]  # type: ignore[union-attr]
    if at[0] != 0 or at[-1] != x.shape[1] or any(b < a for a, b in pairwise(at)):
        raise ValueError(f"the sequences of {side} must add up to the {x.shape[1]} tokens, got ends at {at}")
    return at


def _dense(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, scale: float | None) -> tuple[Tensor, Tensor]:
    queries, keys = q.shape[1], k.shape[1]
    scale = scale or q.shape[-1] ** -0.5
    if not is_causal:
        return functional.attention(q, k, v, all_pairs(queries, keys), scale=scale, return_lse=True)
    common = min(queries, keys)
    hood = windows((common,), (common,), (1,), (1,), (True,))
    out, lse = functional.attention(
        q[:, :common], k[:, :common], v[:, :common], hood, scale=scale, return_lse=True
    )
    if queries == common:
        return out, lse
    late, late_lse = functional.attention(  # those past the last key see all
        q[:, common:], k, v, all_pairs(queries - common, keys), scale=scale, return_lse=True
    )
    return torch.cat((out, late), dim=1), torch.cat((lse, late_lse), dim=1)


def merge_attentions(
    outputs: Sequence[Tensor],
    lse_tensors: Sequence[Tensor],
    torch_compile: bool = True,
    use_autograd_fix: bool = True,
) -> tuple[Tensor, Tensor]:
    """``natten.merge_attentions``: the attention over all keys from those over disjoint sets of them.

    Parameters
    ----------
    outputs
        At least two outputs ``[B, N, H, D_v]``.
    lse_tensors
        Their log-sum-exps ``[B, N, H]``.
    torch_compile, use_autograd_fix
        Ignored: ``lse`` is differentiable here, so gradients are right either way.

    Returns
    -------
    (Tensor, Tensor)
        Output and log-sum-exp of the union.

    Examples
    --------
    >>> q, k, v = torch.randn(3, 1, 10, 2, 16)
    >>> halves = [
    ...     ga.compat.natten.attention(q, k[:, part], v[:, part], return_lse=True)
    ...     for part in (slice(5), slice(5, 10))
    ... ]
    >>> out, lse = ga.compat.natten.merge_attentions(*map(list, zip(*halves)))
    >>> torch.allclose(out, ga.compat.natten.attention(q, k, v), atol=1e-5)
    True
    """
    if len(outputs) < 2:
        raise ValueError(f"merge_attentions takes at least two outputs, got {len(outputs)}")
    usual = {"torch_compile": True, "use_autograd_fix": True}
    note("NATTEN", {"torch_compile": torch_compile, "use_autograd_fix": use_autograd_fix}, usual)
    return functional.merge(outputs, lse_tensors)


def neighborhood_attention_generic(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    stride: Size | None = 1,
    dilation: Size | None = 1,
    is_causal: Flag | None = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    attention_kwargs: Mapping[str, Any] | None = None,
    backend: str | None = None,
    q_tile_shape: Size | None = None,
    kv_tile_shape: Size | None = None,
    backward_q_tile_shape: Size | None = None,
    backward_kv_tile_shape: Size | None = None,
    backward_kv_splits: Size | None = None,
    backward_use_pt_reduction: bool = False,
    run_persistent_kernel: bool = True,
    kernel_schedule: Any = None,
    torch_compile: bool = False,
    return_lse: bool = False,
) -> Result:
    """``natten.na1d``, ``na2d`` or ``na3d``, by the rank of the operands.

    Parameters
    ----------
    query
        ``[B, *shape, H, D]`` with one to three axes of tokens.
    key, value
        ``[B, *shape, H_kv, D]`` and ``[B, *shape, H_kv, D_v]``.
    kernel_size, stride, dilation, is_causal
        One value, or one per axis: the window of :func:`geoattn.window`.
    scale
        ``D ** -0.5`` where None or 0, as in NATTEN.
    additional_keys, additional_values
        ``[B, M, H_kv, D]`` and ``[B, M, H_kv, D_v]``: tokens that every query sees besides its window.
    attention_kwargs
        Knobs for the attention over the additional tokens; ignored.
    return_lse
        Also return the log-sum-exp ``[B, *shape, H]``.

    Raises
    ------
    TypeError
        If ``attention_kwargs`` holds anything but knobs.
    ValueError
        If an argument is not of that form.

    Examples
    --------
    >>> q, k, v = torch.randn(3, 1, 8, 12, 2, 16)  # [B, X, Y, heads, head_dim]
    >>> ga.compat.natten.na2d(q, k, v, kernel_size=(3, 5), dilation=(2, 1)).shape
    torch.Size([1, 8, 12, 2, 16])
    """
    given = locals()
    note("NATTEN", {name: given[name] for name in WINDOW_KNOBS}, WINDOW_KNOBS)
    more = dict(attention_kwargs or {})
    for name in more:
        if name not in ATTENTION_KNOBS:
            raise TypeError(
                f"attention_kwargs[{name!r}] would change the result and is not taken; knobs are: "
                f"{', '.join(ATTENTION_KNOBS)}"
            )
    note("NATTEN", more, ATTENTION_KNOBS)
    rank = query.ndim - 3
    if rank not in (1, 2, 3):
        raise ValueError(
            f"query must be [B, one to three axes of tokens, heads, channels], got shape {tuple(query.shape)}"
        )
    shape = tuple(query.shape[1:-2])
    hood = windows(
        shape,
        sizes("kernel_size", kernel_size, rank),
        sizes("stride", stride, rank, 1),
        sizes("dilation", dilation, rank, 1),
        flags("is_causal", is_causal, rank),
    )
    scale = scale or float(query.shape[-1] ** -0.5)
    if (additional_keys is None) != (additional_values is None):
        missing = "additional_keys" if additional_keys is None else "additional_values"
        raise ValueError(f"additional_keys and additional_values come together, but {missing} is None")
    if additional_keys is None or additional_values is None:
        return functional.attention(query, key, value, hood, scale=scale, return_lse=return_lse)
    near, near_lse = functional.attention(query, key, value, hood, scale=scale, return_lse=True)
    far, far_lse = _dense(query.flatten(1, -3), additional_keys, additional_values, False, scale)
    out, lse = functional.merge((near, far.view(near.shape)), (near_lse, far_lse.view(near_lse.shape)))
    return (out, lse) if return_lse else out


def _of_rank(rank: int) -> Callable[..., Result]:
    """The function for one rank of tokens."""

    @wraps(neighborhood_attention_generic)
    def attend(query: Tensor, *arguments: Any, **more: Any) -> Result:
        if query.ndim != rank + 3:
            raise ValueError(
                f"na{rank}d takes a query [B, {rank} axes of tokens, heads, channels], got shape "
                f"{tuple(query.shape)}"
            )
        return neighborhood_attention_generic(query, *arguments, **more)

    attend.__name__ = attend.__qualname__ = f"na{rank}d"
    return attend


na1d, na2d, na3d = _of_rank(1), _of_rank(2), _of_rank(3)
