"""Calls that are kept: those of one form differ in nothing but what their tensors hold and where these lie.

A form is all that checks, the choice of a backend and its preparations look at: shapes, strides, dtypes and
devices of q, k and v, and the options. At the first eager call of a form a neighborhood keeps what its
backend prepared (:class:`geoattn.backends.base.Kept`), and later ones ask for that alone. Calls with tensors
beside q, k and v are not kept, nor are those that a tracer, a mode or a transform listens to.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoattn import backends, derivatives, ops, plans
from geoattn.backends.base import Kept, flat_views, keeps_calls
from geoattn.backends.torch_private import dual_numbers, goes_straight
from geoattn.neighborhoods.base import Neighborhood

#: forms that a neighborhood keeps; yet another lets all go
MOST_KEPT = 64
#: under this name in a neighborhood's ``__dict__``: no part of its content, and not pickled
_NAME = "_kept_calls"

#: neighborhood, relation, scale, quadrature and backend, as the ops take them
Options = tuple[str, None, float, bool, str | None]


class Form(NamedTuple):
    """What calls of one form have in common."""

    kept: Kept
    #: of the backend
    name: str
    options: Options


class _Forms(dict[Hashable, Form | None]):
    """Those of one neighborhood; None for calls that are known not to be kept."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_all: weakref.WeakSet[_Forms] = weakref.WeakSet()


def forget() -> None:
    """Let all go: plans were cleared, or another backend may be the first to run."""
    for forms in list(_all):
        forms.clear()


plans.clears(forget)
backends.registers(forget)


def _form_of(
    q: Tensor, k: Tensor, v: Tensor, scale: object, key_weights: object, backend: object
) -> Hashable:
    """What tells calls apart, or None for those that are not kept."""
    if (
        not goes_straight(q, k, v)
        or dual_numbers()
        or not (scale is None or type(scale) is float)
        or not (key_weights is None or type(key_weights) is str)
        or not (backend is None or type(backend) is str)
    ):
        return None
    return (
        q.shape, q.stride(), k.shape, k.stride(), v.shape, v.stride(), q.dtype, k.dtype, v.dtype,
        q.get_device(), k.get_device(), v.get_device(), scale, key_weights, backend,
    )  # fmt: skip


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    scale: object,
    key_weights: object,
    backend: object,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor] | None:
    """The result of a call whose form is kept; None for others."""
    forms: _Forms | None = getattr(hood, _NAME, None)
    if not forms:
        return None
    form = forms.get(_form_of(q, k, v, scale, key_weights, backend))
    if form is None:
        return None
    found = form.kept.forward(hood, q, k, v)
    if found is None:
        return None
    backends.ran(form.name)
    if (q.requires_grad or k.requires_grad or v.requires_grad) and torch.is_grad_enabled():
        return _Attention.apply(q, k, v, hood, form, found, return_lse)  # type: ignore[no-any-return, no-untyped-call]
    return found if return_lse else found[0]


def keep(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    hood: Neighborhood,
    scale: object,
    key_weights: object,
    backend: object,
    options: Options,
) -> None:
    """Keep the form of a call whose arguments were checked, if its backend keeps calls."""
    key = _form_of(q, k, v, scale, key_weights, backend)
    if key is None or not q.numel():
        return
    forms: _Forms | None = getattr(hood, _NAME, None)
    if forms is None:
        forms = vars(hood)[_NAME] = _Forms()
        _all.add(forms)
    if key in forms and forms[key] is None:
        return
    if len(forms) >= MOST_KEPT:
        forms.clear()
    with torch.no_grad():
        forms[key] = _prepared(q, k, v, hood, options)


def _prepared(q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood, options: Options) -> Form | None:
    """What calls like this one need, if their backend keeps calls and the kernels read them as they lie."""
    _, _, factor, quadrature, named = options
    flat = flat_views(q, k, v)
    if flat is None:
        return None
    q, k, v = flat
    chosen = backends.choose(named, q, k, v, hood)
    if not keeps_calls(chosen):
        return None
    bias = ops.additive(q, None, hood, quadrature)
    if not backends.skips_hidden(chosen) and ops.hides(None, bias, hood):
        return None
    kept = chosen.keep(q, k, v, bias, hood, factor)
    return None if kept is None else Form(kept, chosen.name, options)


class _Attention(torch.autograd.Function):
    """A kept call with gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        hood: Neighborhood,
        form: Form,
        found: tuple[Tensor, Tensor],
        return_lse: bool,
    ) -> Tensor | tuple[Tensor, Tensor]:
        ctx.hood, ctx.form = hood, form
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, *found)
        return found if return_lse else found[0]

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None = None) -> tuple[Any, ...]:
        if grad_out is None and grad_lse is None:
            return (None,) * 7
        q, k, v, out, lse = ctx.saved_tensors
        if grad_out is None:
            grad_out = torch.zeros_like(out)
        found = None
        if not (torch.compiler.is_compiling() or torch.is_grad_enabled()) and goes_straight(
            grad_out, q, k, v
        ):
            found = ctx.form.kept.backward(ctx.hood, grad_out, grad_lse, q, k, v, out, lse)
        if found is None:
            found = _usual_gradients(ctx.form.options, grad_out, grad_lse, q, k, v, out, lse)
        return *found, None, None, None, None


def _usual_gradients(
    options: tuple[Any, ...],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
) -> list[Tensor]:
    """Gradients as those of other calls, differentiable in their turn."""
    # reshape, which batched gradients know
    flat = [x.reshape(x.shape[0], -1, *x.shape[-2:]) for x in (grad_out, q, k, v, out)]
    if grad_lse is not None:
        grad_lse = grad_lse.reshape(grad_lse.shape[0], -1, grad_lse.shape[-1])
    lse = lse.reshape(lse.shape[0], -1, lse.shape[-1])
    found = derivatives.gradients(
        flat[0], grad_lse, *flat[1:4], None, None, None, None, flat[4], lse, *options, [False] * 3
    )
    return [x.reshape(y.shape) for x, y in zip(found, (q, k, v), strict=False)]
