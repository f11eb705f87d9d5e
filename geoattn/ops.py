"""The operator as torch sees it: two custom ops with fake kernels; see :mod:`geoattn.derivatives`.

Tensors are flat over tokens here (see :mod:`geoattn.backends.base`). A neighborhood crosses the
border of an op as its digest, because ops take tensors, numbers and strings; equal digests mean
equal neighborhoods, so that is all a compiled program needs to know. A program that is exported
outlives the process, and holds the content as a constant beside the digest
(:mod:`geoattn.programs`).

q·k is multiplied by ``scales [B or 1, H]`` where they are given, else by ``scale``. ``relation`` is the
digest of a relation on the neighborhood, ``relation_bias`` its table (see
:class:`geoattn.backends.base.Pairs`); ``content`` is then that of the relation, which holds its neighborhood.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoattn import backends, programs
from geoattn.backends.base import Pairs, accumulation_dtype, knows_relations, reaches_too_far
from geoattn.backends.weights import log_weights
from geoattn.grids.base import Grid
from geoattn.neighborhoods.base import Neighborhood

library = torch.library.Library("geoattn", "DEF")  # type: ignore[no-untyped-call]
library.define(  # type: ignore[no-untyped-call]
    "attention(Tensor q, Tensor k, Tensor v, Tensor? key_bias, Tensor? scales, Tensor? relation_bias, "
    "Tensor? content, str neighborhood, str? relation, float scale, bool quadrature, str? backend) "
    "-> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.define(  # type: ignore[no-untyped-call]
    "attention_backward(Tensor grad_out, Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor? key_bias, "
    "Tensor? scales, Tensor? relation_bias, Tensor? content, Tensor out, Tensor lse, str neighborhood, "
    "str? relation, float scale, bool quadrature, str? backend, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)

#: by identity of a grid
_zero_weights: dict[str, bool] = {}


def additive(q: Tensor, key_bias: Tensor | None, hood: Neighborhood, quadrature: bool) -> Tensor | None:
    """All that is added per key, as one vector: caller's bias and mask, and the log-weights."""
    if not quadrature:
        return key_bias
    weights = log_weights(hood.key_grid, q.device, accumulation_dtype(q.dtype))
    return weights if key_bias is None else combined(weights, key_bias)


def combined(first: Tensor, second: Tensor) -> Tensor:
    """The sum of two additive vectors; −∞ in either hides the key, whatever the other holds."""
    lowest = float("-inf")
    return torch.where((first == lowest) | (second == lowest), lowest, first + second)


def zero_hidden(x: Tensor, key_bias: Tensor | None, additive: Tensor | None, hood: Neighborhood) -> Tensor:
    """Keys or values ``[B, Nk, Hkv, D]`` with zeros where an additive vector of −∞ hides them.

    What a hidden key holds must not meet a product: 0 · NaN is NaN. Without a vector of the caller's only a
    weight of the grid can hide.
    """
    if additive is None or not hides(key_bias, additive, hood):
        return x
    hidden = additive == float("-inf")
    if x.device.type == "cpu" and not hidden.any():
        return x
    return x.masked_fill(hidden[:, :, None, None], 0.0)


def hides(key_bias: Tensor | None, additive: Tensor | None, hood: Neighborhood) -> bool:
    """Whether an additive vector, of the caller's and of log-weights, may hide keys."""
    return additive is not None and (key_bias is not None or _has_zero_weights(hood.key_grid))


def _has_zero_weights(grid: Grid) -> bool:
    known = _zero_weights.get(grid.identity)
    if known is None:
        known = _zero_weights[grid.identity] = bool((np.asarray(grid.weights) == 0).any())
    return known


def full_precision(q: Tensor) -> AbstractContextManager[Any]:
    """Autocast must not reach into a backend: it computes in the precision that it states."""
    device = q.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def pairs_of(relation: str | None, table: Tensor | None, content: Tensor | None) -> Pairs | None:
    """The bias for every pair that a call names."""
    if relation is None or table is None:
        return None
    return Pairs(programs.find_relation(relation, content), table)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    scales: Tensor | None,
    relation_bias: Tensor | None,
    content: Tensor | None,
    neighborhood: str,
    relation: str | None,
    scale: float,
    quadrature: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """The kernel of the op: chooses a backend and runs it."""
    hood = programs.find(neighborhood, content)
    if q.shape[0] == 0:
        return _empty_forward(q, v)
    pairs = pairs_of(relation, relation_bias, content)
    with full_precision(q):
        chosen = backends.choose(backend, q, k, v, hood, pairs and pairs.relation)
        bias = additive(q, key_bias, hood, quadrature)
        if not backends.skips_hidden(chosen):
            k, v = (zero_hidden(x, key_bias, bias, hood) for x in (k, v))
        arguments = q, k, v, bias, hood, scale if scales is None else scales
        if pairs is not None and knows_relations(chosen):
            out, lse = chosen.forward(*arguments, pairs)
        else:
            out, lse = chosen.forward(*arguments)
    return out.contiguous(), lse.contiguous()


def _forward_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    scales: Tensor | None,
    relation_bias: Tensor | None,
    content: Tensor | None,
    neighborhood: str,
    relation: str | None,
    scale: float,
    quadrature: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    programs.keep(neighborhood, relation, content)
    return _empty_forward(q, v)


def _empty_forward(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, heads, _ = q.shape
    out = q.new_empty(batch, tokens, heads, v.shape[-1])
    return out, q.new_empty(batch, tokens, heads, dtype=accumulation_dtype(q.dtype))


_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    scales: Tensor | None,
    relation_bias: Tensor | None,
    content: Tensor | None,
    out: Tensor,
    lse: Tensor,
    neighborhood: str,
    relation: str | None,
    scale: float,
    quadrature: bool,
    backend: str | None,
    needs: list[bool],
) -> _Gradients:
    """The kernel of its derivative; for what is not needed, an empty tensor."""
    hood = programs.find(neighborhood, content)
    if q.shape[0] == 0:
        gradients = _empty_backward(q, k, v, key_bias, scales, relation_bias, lse, needs)
        for gradient in gradients[3:]:
            gradient.zero_()
        return gradients
    pairs = pairs_of(relation, relation_bias, content)
    needs_key_bias, needs_scales, needs_table = needs
    with full_precision(q):
        chosen = backends.choose(backend, q, k, v, hood, pairs and pairs.relation)
        bias = additive(q, key_bias, hood, quadrature)
        if (key_bias is not None or pairs is not None) and reaches_too_far(lse):
            chosen = backends.get("reference")
        if not backends.skips_hidden(chosen):
            k, v = (zero_hidden(x, key_bias, bias, hood) for x in (k, v))
        arguments = (
            grad_out,
            grad_lse,
            q,
            k,
            v,
            bias,
            out,
            lse,
            hood,
            scale if scales is None else scales,
            needs_key_bias,
            needs_scales,
        )
        if pairs is not None and knows_relations(chosen):
            found = chosen.backward(*arguments, pairs, needs_table)
        else:
            found = chosen.backward(*arguments)
    db, ds, dt = (
        gradient.contiguous() if needed and gradient is not None else lse.new_empty(0)
        for gradient, needed in zip(found[3:], needs, strict=True)
    )
    return found.q.contiguous(), found.k.contiguous(), found.v.contiguous(), db, ds, dt


def _backward_fake(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    scales: Tensor | None,
    relation_bias: Tensor | None,
    content: Tensor | None,
    out: Tensor,
    lse: Tensor,
    neighborhood: str,
    relation: str | None,
    scale: float,
    quadrature: bool,
    backend: str | None,
    needs: list[bool],
) -> _Gradients:
    programs.keep(neighborhood, relation, content)
    return _empty_backward(q, k, v, key_bias, scales, relation_bias, lse, needs)


def _empty_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    scales: Tensor | None,
    relation_bias: Tensor | None,
    lse: Tensor,
    needs: list[bool],
) -> _Gradients:
    db, ds, dt = (
        lse.new_empty(x.shape) if needed and x is not None else lse.new_empty(0)
        for x, needed in zip((key_bias, scales, relation_bias), needs, strict=True)
    )
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), db, ds, dt


library.impl("attention", forward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
library.impl("attention_backward", backward, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("geoattn::attention", _forward_fake, lib=library)
torch.library.register_fake("geoattn::attention_backward", _backward_fake, lib=library)
