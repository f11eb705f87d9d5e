"""The operator as torch sees it: two custom ops with fake kernels and autograd formulas.

Tensors are flat over tokens here (see :mod:`geoattn.backends.base`). A neighborhood crosses the
border of an op as its digest, because ops take tensors, numbers and strings; equal digests mean
equal neighborhoods, so that is all a compiled program needs to know.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoattn import backends
from geoattn.backends import reference
from geoattn.backends.cache import BoundedCache
from geoattn.backends.reference import accumulation_dtype
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood

_library = torch.library.Library("geoattn", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "attention(Tensor q, Tensor k, Tensor v, Tensor? key_bias, str neighborhood, float scale, "
    "bool quadrature, str? backend) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(  # type: ignore[no-untyped-call]
    "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor? key_bias, "
    "Tensor out, Tensor lse, str neighborhood, float scale, bool quadrature, str? backend, "
    "bool needs_key_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)

_log_weights: BoundedCache[tuple[str, torch.device, torch.dtype], Tensor] = BoundedCache(max_bytes=2**28)
#: neighborhoods that compiled programs name: such programs live as long as the process
_traced: dict[str, Neighborhood] = {}


def log_weights(grid: Grid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Logarithm of the grid's quadrature weights ``[1, size]``; −inf where a weight is zero."""
    key = (grid.digest, device, dtype)
    kept = _log_weights.get(key)
    if kept is None:
        with np.errstate(divide="ignore"):
            values = np.log(np.asarray(grid.weights, dtype=np.float64).reshape(1, -1))
        kept = torch.as_tensor(values).to(device=device, dtype=dtype)
        _log_weights.put(key, kept, kept.numel() * kept.element_size())
    return kept


def _additive(q: Tensor, key_bias: Tensor | None, hood: Neighborhood, quadrature: bool) -> Tensor | None:
    """All that is added per key, as one vector: caller's bias and mask, and the log-weights."""
    if not quadrature:
        return key_bias
    weights = log_weights(hood.key_grid, q.device, accumulation_dtype(q.dtype))
    return weights if key_bias is None else key_bias + weights


def _full_precision(q: Tensor) -> AbstractContextManager[Any]:
    """Autocast must not reach into a backend: it computes in the precision that it states."""
    device = q.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    neighborhood: str,
    scale: float,
    quadrature: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    hood = Neighborhood.alive(neighborhood)
    if q.shape[0] == 0:
        return _empty_forward(q, v)
    with _full_precision(q):
        chosen = backends.choose(backend, q, k, v, hood)
        out, lse = chosen.forward(q, k, v, _additive(q, key_bias, hood, quadrature), hood, scale)
    return out.contiguous(), lse.contiguous()


def _forward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    neighborhood: str,
    scale: float,
    quadrature: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    _traced[neighborhood] = Neighborhood.alive(neighborhood)
    return _empty_forward(q, v)


def _empty_forward(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    out = q.new_empty(batch, tokens, heads, v.shape[-1])
    return out, q.new_empty(batch, tokens, heads, dtype=accumulation_dtype(q.dtype))


def _backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    neighborhood: str,
    scale: float,
    quadrature: bool,
    backend: str | None,
    needs_key_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hood = Neighborhood.alive(neighborhood)
    if q.shape[0] == 0:
        gradients = _empty_backward(q, k, v, key_bias, lse, needs_key_bias)
        gradients[3].zero_()
        return gradients
    with _full_precision(q):
        chosen = backends.choose(backend, q, k, v, hood)
        additive = _additive(q, key_bias, hood, quadrature)
        dq, dk, dv, db = chosen.backward(
            grad_out, grad_lse, q, k, v, additive, out, lse, hood, scale, needs_key_bias
        )
        if db is None or key_bias is None:
            db = lse.new_empty(0)
    return dq.contiguous(), dk.contiguous(), dv.contiguous(), db.contiguous()


def _backward_fake(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    neighborhood: str,
    scale: float,
    quadrature: bool,
    backend: str | None,
    needs_key_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _traced[neighborhood] = Neighborhood.alive(neighborhood)
    return _empty_backward(q, k, v, key_bias, lse, needs_key_bias)


def _empty_backward(
    q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, lse: Tensor, needs_key_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bias = lse.new_empty(key_bias.shape) if needs_key_bias and key_bias is not None else lse.new_empty(0)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, key_bias, ctx.neighborhood, ctx.scale, ctx.quadrature, ctx.backend = inputs
    ctx.hood = Neighborhood.alive(ctx.neighborhood)  # keeps it alive until the backward pass
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, key_bias, *output)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    if grad_out is None and grad_lse is None:
        return (None,) * 8
    q, k, v, key_bias, out, lse = ctx.saved_tensors
    needs_key_bias = ctx.needs_input_grad[3]
    dq, dk, dv, db = torch.ops.geoattn.attention_backward(
        torch.zeros_like(out) if grad_out is None else grad_out,
        grad_lse,
        q,
        k,
        v,
        key_bias,
        out,
        lse,
        ctx.neighborhood,
        ctx.scale,
        ctx.quadrature,
        ctx.backend,
        needs_key_bias,
    )
    return dq, dk, dv, db if needs_key_bias else None, None, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad_out, grad_lse, q, k, v, key_bias, _, _, digest, ctx.scale, ctx.quadrature, _, ctx.needs_bias = inputs
    ctx.hood = Neighborhood.alive(digest)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad_out, grad_lse, q, k, v, key_bias)


def _differentiate_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """Second and higher derivatives, by differentiating the reference's own formula chunk by chunk.

    The gradients are functions of grad_out, grad_lse, q, k, v and key_bias; out and lse are
    functions of the same and need no gradient of their own.
    """
    wanted = cotangents if ctx.needs_bias else cotangents[:3]
    if all(cotangent is None for cotangent in wanted):
        return (None,) * 13
    grad_out, grad_lse, q, k, v, key_bias = ctx.saved_tensors
    additive = _additive(q, key_bias, ctx.hood, ctx.quadrature)
    with _full_precision(q):
        gradients = reference.second_derivatives(
            wanted, grad_out, grad_lse, q, k, v, additive, ctx.hood, ctx.scale
        )
    if key_bias is None:
        gradients[5] = None
    return *gradients, *(None,) * 7


_library.impl("attention", _forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("attention_backward", _backward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("geoattn::attention", _forward_fake, lib=_library)
torch.library.register_fake("geoattn::attention_backward", _backward_fake, lib=_library)
torch.library.register_autograd("geoattn::attention", _differentiate, setup_context=_setup, lib=_library)
torch.library.register_autograd(
    "geoattn::attention_backward", _differentiate_backward, setup_context=_setup_backward, lib=_library
)
