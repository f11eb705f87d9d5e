"""Scores of a window and sums over it, one after the other, as NATTEN had them up to 0.17.

Heads come before tokens here. The slots of a window are its places in row-major order; one that a
causal axis hides holds −∞. Plain torch: the keys of every window are gathered, and take their memory. Code
that looks at no score in between runs in far less through ``na1d``, ``na2d`` and ``na3d``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.compat.natten.arguments import Flag, Size, flags, sizes, windows
from geoattn.neighborhoods.rows import Index

Call = TypeVar("Call", bound=Callable[..., Tensor])


class _Slots(NamedTuple):
    """For each token and slot of its window, row-major, ``[N, K]``."""

    keys: Index  # flat index of the key; 0 where there is none
    missing: NDArray[np.bool_]
    biases: Index  # flat index into rpb [2k − 1 per axis]


@lru_cache(64)
def _slots(
    shape: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...], causal: tuple[bool, ...]
) -> _Slots:
    """The product of one table ``[L, k]`` per axis."""
    keys = biases = missing = np.zeros((1, 1), np.int64)
    for length, k, d, c in zip(shape, kernel, dilation, causal, strict=True):
        if k * d > length:
            raise ValueError(
                f"kernel_size * dilation must not exceed the tokens of an axis, got {k} * {d} for {length}"
            )
        rows = windows((length,), (k,), (1,), (d,), (c,)).rows(np.arange(length))
        counts = np.diff(rows.indptr)[:, None]
        filled = np.arange(k) < counts
        here = np.zeros((length, k), np.int64)
        here[filled] = rows.indices
        place = np.where(filled, (here - np.arange(length)[:, None]) // d + k - 1, 0)

        keys, biases = _outer(keys, here, length), _outer(biases, place, 2 * k - 1)
        missing = _outer(missing, (~filled).astype(np.int64), 2)
    return _Slots(keys, missing > 0, biases)


def _outer(table: Index, axis: Index, factor: int) -> Index:
    """The table of one more axis, the last and fastest."""
    both = table[:, None, :, None] * factor + axis[None, :, None, :]
    return both.reshape(len(table) * len(axis), -1)


def scores(
    query: Tensor,
    key: Tensor,
    kernel_size: Size,
    dilation: Size | None = 1,
    additional_keys: Tensor | None = None,
    is_causal: Flag | None = False,
    rpb: Tensor | None = None,
) -> Tensor:
    """Dot products of each query with its window.

    Parameters
    ----------
    query, key
        ``[B, H, *shape, D]``; scale them beforehand.
    kernel_size, dilation, is_causal
        One value, or one per axis.
    additional_keys
        ``[B, H, M, D]``: M more slots behind those of the window.
    rpb
        ``[H, 2k − 1 per axis]``, added at the displacement from query to key, which is 0 at ``k − 1``.

    Returns
    -------
    Tensor
        ``[B, H, *shape, slots]``; −∞ where a causal axis hides a slot.
    """
    if key.shape != query.shape:
        raise ValueError(
            f"query and key must have one shape, got {tuple(query.shape)} and {tuple(key.shape)}"
        )
    slots, kernel = _window(query, kernel_size, dilation, is_causal)
    tokens, size = slots.keys.shape
    at = torch.from_numpy(slots.keys.ravel()).to(key.device)
    near = key.flatten(2, -2).index_select(2, at).view(*key.shape[:2], tokens, size, -1)
    q = query.flatten(2, -2)
    found = (near @ q.unsqueeze(-1)).squeeze(-1)
    if rpb is not None:
        wanted = (query.shape[1], *(2 * k - 1 for k in kernel))
        if tuple(rpb.shape) != wanted:
            raise ValueError(f"rpb must have the shape {wanted}, got {tuple(rpb.shape)}")
        places = torch.from_numpy(slots.biases.ravel()).to(rpb.device)
        found = found + rpb.flatten(1).index_select(1, places).view(-1, tokens, size)
    if slots.missing.any():
        found = found.masked_fill(torch.from_numpy(slots.missing).to(found.device), float("-inf"))
    if additional_keys is not None:
        found = torch.cat((found, q @ additional_keys.transpose(-2, -1)), dim=-1)
    return found.view(*query.shape[:-1], found.shape[-1])


def sums(
    attn: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size | None = 1,
    additional_values: Tensor | None = None,
    is_causal: Flag | None = False,
) -> Tensor:
    """Sums of values over each window, with the weights ``attn``.

    Parameters
    ----------
    attn
        ``[B, H, *shape, slots]``; what stands in a slot that a causal axis hides is not read.
    value
        ``[B, H, *shape, D_v]``.
    kernel_size, dilation, is_causal
        As for the scores.
    additional_values
        ``[B, H, M, D_v]``, for the last M slots.

    Returns
    -------
    Tensor
        ``[B, H, *shape, D_v]``.
    """
    slots, _ = _window(value, kernel_size, dilation, is_causal)
    tokens, size = slots.keys.shape
    more = 0 if additional_values is None else additional_values.shape[-2]
    if tuple(attn.shape) != (*value.shape[:-1], size + more):
        raise ValueError(
            f"attn must have the shape {(*value.shape[:-1], size + more)}, got {tuple(attn.shape)}"
        )
    weights = attn.flatten(2, -2)
    inner = weights[..., :size]
    if slots.missing.any():
        inner = inner.masked_fill(torch.from_numpy(slots.missing).to(attn.device), 0.0)
    at = torch.from_numpy(slots.keys.ravel()).to(value.device)
    near = value.flatten(2, -2).index_select(2, at).view(*value.shape[:2], tokens, size, -1)
    out = (inner.unsqueeze(-2) @ near).squeeze(-2)
    if additional_values is not None:
        out = out + weights[..., size:] @ additional_values
    return out.view(value.shape)


def _window(
    x: Tensor, kernel_size: Size, dilation: Size | None, is_causal: Flag | None
) -> tuple[_Slots, tuple[int, ...]]:
    shape = tuple(x.shape[2:-1])
    kernel, steps = (
        sizes("kernel_size", kernel_size, len(shape)),
        sizes("dilation", dilation, len(shape), 1),
    )
    return _slots(shape, kernel, steps, flags("is_causal", is_causal, len(shape))), kernel


def _of_rank(function: Call, rank: int, name: str) -> Call:
    """The function for one rank of tokens, under NATTEN's name."""

    @wraps(function)
    def checked(x: Tensor, *arguments: Any, **more: Any) -> Tensor:
        if x.ndim != rank + 3:
            axes = "one axis" if rank == 1 else f"{rank} axes"
            raise ValueError(
                f"{name} takes [B, heads, {axes} of tokens, channels], got shape {tuple(x.shape)}"
            )
        return function(x, *arguments, **more)

    checked.__name__ = checked.__qualname__ = name
    return checked  # type: ignore[return-value]


# 0.17: sizes are one value, or one per axis

na1d_qk, na2d_qk, na3d_qk = (_of_rank(scores, rank, f"na{rank}d_qk") for rank in (1, 2, 3))
na1d_av, na2d_av, na3d_av = (_of_rank(sums, rank, f"na{rank}d_av") for rank in (1, 2, 3))

# 0.14 and 0.15: biases before sizes, and in three dimensions one size for depth and one for the other axes


def with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: Size,
    dilation: Size | None,
    additional_keys: Tensor | None = None,
) -> Tensor:
    return scores(query, key, kernel_size, dilation, additional_keys, rpb=bias)


def with_rpb(
    query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: Size, dilation: Size | None
) -> Tensor:
    return scores(query, key, kernel_size, dilation, rpb=rpb)


def deep_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    kernel, steps = (kernel_size_d, kernel_size, kernel_size), (dilation_d, dilation, dilation)
    return scores(query, key, kernel, steps, additional_keys, rpb=bias)


def deep_with_rpb(
    query: Tensor,
    key: Tensor,
    rpb: Tensor | None,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
) -> Tensor:
    return deep_with_bias(query, key, rpb, kernel_size_d, kernel_size, dilation_d, dilation)


def deep_scores(
    query: Tensor,
    key: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_keys: Tensor | None = None,
) -> Tensor:
    return deep_with_bias(query, key, None, kernel_size_d, kernel_size, dilation_d, dilation, additional_keys)


def deep_sums(
    attn: Tensor,
    value: Tensor,
    kernel_size_d: int,
    kernel_size: int,
    dilation_d: int,
    dilation: int,
    additional_values: Tensor | None = None,
) -> Tensor:
    kernel, steps = (kernel_size_d, kernel_size, kernel_size), (dilation_d, dilation, dilation)
    return sums(attn, value, kernel, steps, additional_values)


for function in (with_bias, with_rpb, deep_with_bias, deep_with_rpb, deep_scores):
    function.__doc__ = scores.__doc__
deep_sums.__doc__ = sums.__doc__

natten1dqk, natten2dqk, natten3dqk = na1d_qk, na2d_qk, _of_rank(deep_scores, 3, "natten3dqk")
natten1dav, natten2dav, natten3dav = na1d_av, na2d_av, _of_rank(deep_sums, 3, "natten3dav")
natten1dqkrpb, natten2dqkrpb = (_of_rank(with_rpb, rank, f"natten{rank}dqkrpb") for rank in (1, 2))
na1d_qk_with_bias, na2d_qk_with_bias = (
    _of_rank(with_bias, rank, f"na{rank}d_qk_with_bias") for rank in (1, 2)
)
natten3dqkrpb = _of_rank(deep_with_rpb, 3, "natten3dqkrpb")
na3d_qk_with_bias = _of_rank(deep_with_bias, 3, "na3d_qk_with_bias")
