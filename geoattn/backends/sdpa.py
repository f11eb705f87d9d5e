"""Global attention on torch's fused kernels, without a mask of all pairs.

The additive key vector b travels in extra channels. With c in further channels of every query and
the pieces of b_j / (scale · c) in those of key j, the kernel's own product gives

    scale · q'_i·k'_j = scale · q_i·k_j + b_j .

In half precision b is cut into pieces of which each holds the rounding error of those before it,
so that weights keep float32 accuracy. The gradient of b comes back in the first extra channel of
dk'. The gradient of the lse needs no kernel of its own either: fused backward passes know the
forward result only through Δ_i = dO_i·O_i, and the gradient of lse_i enters the formula as
Δ_i − dlse_i, so a further channel with O' = 1, dO' = −dlse and v' = 0 adds exactly that.

What is not a number in q, k or the key vector reaches all queries that see it. Where the largest bias of a
batch entry is beyond what those channels hold (:func:`_bound`), calls on a CPU are the reference's, with a
warning; on CUDA, where asking would stall the device, such outputs are NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from geoattn.backends.base import (
    Forward,
    Gradients,
    backward_of_multiplied,
    forward_of_multiplied,
    say_extreme,
)
from geoattn.backends.reference import Reference
from geoattn.neighborhoods.base import Neighborhood

_aten = torch.ops.aten

#: channels that one float32 number needs to arrive with float32 accuracy
PIECES = {torch.float64: 1, torch.float32: 1, torch.bfloat16: 3, torch.float16: 3}
#: what the queries hold against those pieces: float16 needs it for range
CARRIER = {torch.float64: 1.0, torch.float32: 1.0, torch.bfloat16: 1.0, torch.float16: 16.0}
#: stands for −∞, which must not meet a zero in a matrix product
HIDDEN = {torch.float64: -1e300, torch.float32: -1e30}


class FusedDense:
    """torch's fused attention for neighborhoods that hold every pair."""

    name = "sdpa"

    def unavailable(self) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if hood.kind != "everything":
            return "it computes every pair, and the neighborhood is not geoattn.everything(…)"
        device = q.device.type
        if device not in ("cpu", "cuda"):
            return f"torch has no fused attention with a log-sum-exp on {device}"
        if device == "cuda" and q.dtype == torch.float64:
            return "torch's fused CUDA attention does not take float64"
        widest = max(q.shape[-1], v.shape[-1]) + PIECES.get(q.dtype, 0)
        if device == "cuda" and widest > 256:
            return (
                f"fused CUDA attention takes 256 channels, this call needs {widest} with those of the weights"
            )
        return None

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
    ) -> Forward:
        if isinstance(scale, Tensor):
            return forward_of_multiplied(self, q, k, v, key_bias, hood, scale)
        if key_bias is not None and q.device.type == "cpu" and _beyond(key_bias, q.dtype, scale).any():
            say_extreme()
            return Reference().forward(q, k, v, key_bias, hood, scale)
        operands = _extend(q, k, v, key_bias, scale, lse_channels=0)
        out, lse = _fused(*operands, scale or 1.0)
        out = _by_token(out, q.shape[2])[..., : v.shape[-1]]
        lse = _by_token(lse.unsqueeze(-1), q.shape[2]).squeeze(-1)
        # the kernels take a score of −∞ for a weight of 0, and some lose NaN: every query sees every key
        wrong = ~q.isfinite().all(-1) | ~k.isfinite().all(-1).all(1).repeat_interleave(
            q.shape[2] // k.shape[2], -1
        ).unsqueeze(1)
        if key_bias is not None:
            dead = (key_bias == float("-inf")).all(1)[:, None, None]
            out, lse = out.masked_fill(dead.unsqueeze(-1), 0.0), lse.masked_fill(dead, float("-inf"))
            unheld = key_bias.isnan().any(1) | (key_bias == float("inf")).any(1)
            unheld = unheld | _beyond(key_bias, q.dtype, scale)
            wrong = (wrong & ~dead) | unheld[:, None, None]
        out = out.masked_fill(wrong.unsqueeze(-1), float("nan"))
        lse = lse.masked_fill(wrong, float("nan"))
        return Forward(out, lse)

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        out: Tensor,
        lse: Tensor,
        hood: Neighborhood,
        scale: float | Tensor,
        needs_key_bias: bool,
        needs_scale: bool = False,
    ) -> Gradients:
        if isinstance(scale, Tensor):
            return backward_of_multiplied(
                self, grad_out, grad_lse, q, k, v, key_bias, out, lse, hood, scale, needs_key_bias
            )
        heads, kv_heads, dim, dim_v = q.shape[2], k.shape[2], q.shape[3], v.shape[3]
        lse_channels = 0 if grad_lse is None else PIECES[q.dtype]
        q_wide, k_wide, v_wide = _extend(q, k, v, key_bias, scale, lse_channels)
        out_wide = _widen(out, kv_heads, q_wide.shape[-1])
        grad_wide = _widen(grad_out, kv_heads, q_wide.shape[-1])
        dead = lse == float("-inf")
        if grad_lse is not None:
            pieces = _pieces(-grad_lse.masked_fill(dead, 0.0), q.dtype, lse_channels)
            extra = slice(dim_v, dim_v + lse_channels)
            grad_wide[..., extra] = _by_head(pieces, kv_heads)
            out_wide[..., extra] = 1.0
        # with lse = +∞ every probability of an empty row is exp(−∞) = 0
        lse_rows = _by_head(lse.masked_fill(dead, float("inf")).unsqueeze(-1), kv_heads).squeeze(-1)
        dq, dk, dv = _fused_backward(grad_wide, q_wide, k_wide, v_wide, out_wide, lse_rows, scale or 1.0)
        db = None
        if needs_key_bias and key_bias is not None:
            db = dk[..., dim].to(key_bias.dtype).sum(1) / ((scale or 1.0) * CARRIER[q.dtype])
            db = db.sum(0, keepdim=True) if key_bias.shape[0] == 1 else db
        dq = _by_token(dq, heads)[..., :dim]
        dk, dv = dk[..., :dim].transpose(1, 2), dv[..., :dim_v].transpose(1, 2)
        return Gradients(dq if scale else torch.zeros_like(dq), dk, dv, db)


def _bound(dtype: torch.dtype, scale: float) -> float:
    """How large the largest bias may be, so that those far below it weigh nothing and scores stay finite."""
    largest = torch.finfo(dtype).max * CARRIER[dtype] * abs(scale or 1.0) / 4
    return min(largest, 1e299 if dtype == torch.float64 else 1e28)


def _beyond(key_bias: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """Which batch entries have a finite largest bias beyond the bound ``[B or 1]``."""
    top = key_bias.amax(1)
    return (top.abs() > _bound(dtype, scale)) & top.isfinite()


def _extend(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, scale: float, lse_channels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Operands ``[B, Hkv, tokens, width]`` that hold the additive key vector in extra channels."""
    kv_heads, dim, dim_v = k.shape[2], q.shape[3], v.shape[3]
    count = 0 if key_bias is None else PIECES[q.dtype]
    width = max(dim + count, dim_v + lse_channels)
    if q.device.type == "cuda":
        width = -(-width // 8) * 8
    q_wide, k_wide, v_wide = (_widen(x, kv_heads, width) for x in (q, k, v))
    if scale == 0:
        q_wide = torch.zeros_like(q_wide)  # the scores are the key vector alone, at any other scale
    if key_bias is not None:
        carrier = CARRIER[q.dtype]
        values = key_bias.clamp(min=HIDDEN[key_bias.dtype]) / ((scale or 1.0) * carrier)
        q_wide[..., dim : dim + count] = carrier
        k_wide[..., dim : dim + count] = _pieces(values, q.dtype, count).unsqueeze(1)
    return q_wide, k_wide, v_wide


def _pieces(x: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """``[..., count]`` numbers of ``dtype`` that sum to x: each rounds what those before it left."""
    limit = torch.finfo(dtype).max
    pieces = []
    for _ in range(count):
        piece = x.clamp(-limit, limit).to(dtype)
        pieces.append(piece)
        x = x - piece.to(x.dtype)
    return torch.stack(pieces, dim=-1)


def _by_head(x: Tensor, kv_heads: int) -> Tensor:
    """``[B, N, H, D]`` → ``[B, Hkv, N * G, D]``.

    Where all queries see all keys, the G query heads that share a key head are just more queries.
    """
    batch, tokens, heads, dim = x.shape
    shared = heads // kv_heads
    x = x.reshape(batch, tokens, kv_heads, shared, dim).transpose(2, 3)
    return x.reshape(batch, tokens * shared, kv_heads, dim).transpose(1, 2)


def _by_token(x: Tensor, heads: int) -> Tensor:
    """The inverse of :func:`_by_head`: ``[B, Hkv, N * G, D]`` → ``[B, N, H, D]``."""
    batch, kv_heads, rows, dim = x.shape
    shared = heads // kv_heads
    x = x.transpose(1, 2).reshape(batch, rows // shared, shared, kv_heads, dim).transpose(2, 3)
    return x.reshape(batch, rows // shared, heads, dim)


def _widen(x: Tensor, kv_heads: int, width: int) -> Tensor:
    """By head as above, in ``width`` channels, the added ones zero; a fresh tensor only if added to."""
    batch, tokens, heads, dim = x.shape
    if dim == width and x.stride(-1) == 1:
        return _by_head(x, kv_heads)
    shared = heads // kv_heads
    wide = x.new_zeros(batch, tokens, shared, kv_heads, width)
    wide[..., :dim] = x.reshape(batch, tokens, kv_heads, shared, dim).transpose(2, 3)
    return wide.reshape(batch, tokens * shared, kv_heads, width).transpose(1, 2)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    if q.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=scale)
    elif q.dtype == torch.float32:
        out, lse, *_ = _aten._scaled_dot_product_efficient_attention(q, k, v, None, True, scale=scale)
    else:
        out, lse, *_ = _aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)
    return out, lse[..., : q.shape[2]]


def _fused_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    if q.device.type == "cpu":
        dq, dk, dv = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_out, q, k, v, out, lse, 0.0, False, scale=scale
        )
        return dq, dk, dv
    seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of a dropout that is not used
    with _deterministic():
        if q.dtype == torch.float32:
            rows = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % 32), value=float("inf"))
            dq, dk, dv, _ = _aten._scaled_dot_product_efficient_attention_backward(
                grad_out, q, k, v, None, out, rows, seed, seed, 0.0, [True, True, True, False], scale=scale
            )
        else:
            rows = lse.contiguous()
            dq, dk, dv = _aten._scaled_dot_product_flash_attention_backward(
                grad_out,
                q,
                k,
                v,
                out,
                rows,
                None,
                None,
                q.shape[2],
                k.shape[2],
                0.0,
                False,
                seed,
                seed,
                scale=scale,
            )
    return dq, dk, dv


@contextmanager
def _deterministic() -> Iterator[None]:
    """Fused CUDA backward passes sum in a fixed order only if the process asks for it."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=before[1] or not before[0])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
