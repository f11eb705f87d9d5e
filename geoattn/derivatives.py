"""The operator's derivatives: those that torch asks of its ops, those of eager calls, those of torch.func.

The formulas are the same in all three. Compiled and exported programs trace the ops and find them
registered there. Eager calls take a function of their own around the op, which costs half of what the
registration does. ``torch.func`` and vectorised Hessians need functions with rules for its transforms;
the axis that ``vmap`` adds is folded into the batch, so that one call serves all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from geoattn import ops, programs
from geoattn.backends.chunks import second_derivatives
from geoattn.backends.torch_private import below_autograd, goes_straight, is_legacy_batched, with_autograd
from geoattn.backends.torch_private import in_functorch as in_functorch

_attention = torch.ops.geoattn.attention.default
_attention_backward = torch.ops.geoattn.attention_backward.default

#: tensors of the ops that may have a gradient
OPERANDS = 6
#: of each op: those that hold one row for the whole batch or one for each entry
_SHARED = {"attention": (3, 4, 5), "backward": (5, 6, 7), "second": (11, 12, 13)}


def attend(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The op ``geoattn::attention``, differentiable in the way that the call at hand needs."""
    if torch.compiler.is_compiling():
        return _attention(*arguments)  # type: ignore[no-any-return]
    if in_functorch():
        return _TransformedAttention.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]
    if _differentiable(arguments[:OPERANDS]):
        return Attention.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]
    return _below(*arguments)


def _below(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The op below autograd; its kernel itself, in half of the time, where nobody sees the difference."""
    with below_autograd():
        if goes_straight(*arguments[:3]):
            return ops.forward(*arguments)
        return _attention(*arguments)  # type: ignore[no-any-return]


def gradients(*arguments: Any) -> tuple[Tensor, ...]:
    """The op ``geoattn::attention_backward`` likewise."""
    if in_functorch() and not torch.compiler.is_compiling():
        return _TransformedBackward.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]
    if torch.is_grad_enabled():  # for derivatives of derivatives
        return _attention_backward(*arguments)  # type: ignore[no-any-return]
    with below_autograd():
        if goes_straight(arguments[0], *arguments[2:5]):
            return ops.backward(*arguments)
        return _attention_backward(*arguments)  # type: ignore[no-any-return]


def _differentiable(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


# ---------------------------------------------------------------- the formulas


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *operands, ctx.options = *inputs[:7], inputs[7:]
    digest, relation = ctx.options[:2]
    ctx.hood = programs.find(digest, operands[6])  # keeps it alive until the backward pass
    ctx.relation = relation and programs.find_relation(relation, operands[6])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, *output)


def _differentiate(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    if grad_out is None and grad_lse is None:
        return (None,) * 12
    *operands, out, lse = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[3:OPERANDS])
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    found = gradients(grad_out, grad_lse, *operands, out, lse, *ctx.options, needs)
    more = (x if needed else None for x, needed in zip(found[3:], needs, strict=True))
    return *found[:3], *more, *(None,) * 6


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, content, _, _, digest, relation, scale, quadrature, _, ctx.needs = inputs
    ctx.hood = programs.find(digest, content)
    ctx.relation = relation and programs.find_relation(relation, content)
    ctx.options = digest, relation, scale, quadrature
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, content)


def _differentiate_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """Second derivatives.

    The gradients are functions of grad_out, grad_lse, q, k, v, key_bias, scales and relation_bias; out and
    lse are functions of the same and need no gradient of their own.
    """
    wanted = [*cotangents[:3], *(c if n else None for c, n in zip(cotangents[3:], ctx.needs, strict=True))]
    if all(cotangent is None for cotangent in wanted):
        return (None,) * 17
    arguments = (*wanted, *ctx.saved_tensors, *ctx.options)
    if in_functorch():
        second = _TransformedSecond.apply(*arguments)  # type: ignore[no-untyped-call]
        gradients = [None if x is None else g for g, x in zip(second, ctx.saved_tensors[:8], strict=True)]
    elif any(x is not None and is_legacy_batched(x) for x in wanted):
        second = _attention_second(*arguments)  # of torch.autograd.functional with vectorize=True
        gradients = [None if x is None else g for g, x in zip(second, ctx.saved_tensors[:8], strict=True)]
    else:
        gradients = _second(*arguments)
    return *gradients, *(None,) * 9


def _second(*arguments: Any) -> list[Tensor | None]:
    """Second derivatives by differentiating the reference's own formula, chunk by chunk."""
    wanted, (grad_out, grad_lse, q, k, v, key_bias, scales, table, *rest) = arguments[:6], arguments[6:]
    content, digest, relation, scale, quadrature = rest
    hood, pairs = programs.find(digest, content), ops.pairs_of(relation, table, content)
    additive = ops.additive(q, key_bias, hood, quadrature)
    k, v = (ops.zero_hidden(x, key_bias, additive, hood) for x in (k, v))
    with ops.full_precision(q):
        gradients = second_derivatives(
            wanted, grad_out, grad_lse, q, k, v, additive, hood, scale if scales is None else scales, pairs
        )
    if key_bias is None:
        gradients[5] = None
    return gradients


def _second_op(*arguments: Any) -> tuple[Tensor, ...]:
    """The same as an op that torch can map over; what an operand has none of is an empty tensor."""
    q = arguments[8]
    # the formula is differentiated by autograd, which the dispatcher leaves out of ops
    with with_autograd():
        return tuple(q.new_empty(0) if x is None else x for x in _second(*arguments))


def _setup_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pass


def _no_third(ctx: Any, *cotangents: Tensor | None) -> NoReturn:
    raise NotImplementedError(
        "attention has no third derivative under torch.func and vmap; "
        "torch.autograd.grad(…, create_graph=True) gives derivatives of any order"
    )


ops.library.define(  # type: ignore[no-untyped-call]
    "attention_second(Tensor? cotangent_q, Tensor? cotangent_k, Tensor? cotangent_v, "
    "Tensor? cotangent_key_bias, Tensor? cotangent_scales, Tensor? cotangent_relation_bias, Tensor grad_out, "
    "Tensor? grad_lse, Tensor q, Tensor k, Tensor v, Tensor? key_bias, Tensor? scales, "
    "Tensor? relation_bias, Tensor? content, str neighborhood, str? relation, float scale, bool quadrature) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)
ops.library.impl("attention_second", _second_op, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_autograd(
    "geoattn::attention_second", _no_third, setup_context=_setup_nothing, lib=ops.library
)
_attention_second = torch.ops.geoattn.attention_second.default


# ---------------------------------------------------------------- compiled programs

torch.library.register_autograd("geoattn::attention", _differentiate, setup_context=_setup, lib=ops.library)
torch.library.register_autograd(
    "geoattn::attention_backward", _differentiate_backward, setup_context=_setup_backward, lib=ops.library
)


# ---------------------------------------------------------------- eager calls


class Attention(torch.autograd.Function):
    """An eager call with gradients."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        output = _below(*arguments)
        _setup(ctx, arguments, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        return _differentiate(ctx, *gradients)


# ---------------------------------------------------------------- torch.func


def no_tangents(*_: Any) -> NoReturn:
    """An op without a forward-mode rule would drop tangents in silence."""
    raise NotImplementedError(
        "attention has no forward-mode derivative (torch.func.jvp, jacfwd and hessian, "
        "torch.autograd.forward_ad); use reverse mode, which is right to any order: "
        "torch.autograd.grad(…, create_graph=True), torch.func.jacrev(torch.func.jacrev(f)), "
        "torch.autograd.functional.hessian(f, x)"
    )


class _TransformedAttention(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return _attention(*arguments)  # type: ignore[no-any-return]

    setup_context = staticmethod(_setup)  # type: ignore[assignment]
    jvp = staticmethod(no_tangents)  # type: ignore[assignment]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        return _differentiate(ctx, *gradients)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        folded, unfold = _fold(info.batch_size, in_dims, arguments, 7, _SHARED["attention"], like=0)
        return tuple(map(unfold, attend(*folded))), (0, 0)


class _TransformedBackward(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _attention_backward(*arguments)  # type: ignore[no-any-return]

    setup_context = staticmethod(_setup_backward)  # type: ignore[assignment]
    jvp = staticmethod(no_tangents)  # type: ignore[assignment]

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        return _differentiate_backward(ctx, *cotangents)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        folded, unfold = _fold(info.batch_size, in_dims, arguments, 11, _SHARED["backward"], like=2)
        found = list(gradients(*folded))
        dims: list[int | None] = [0, 0, 0, *(0 if needed else None for needed in arguments[-1])]
        for place, dim in enumerate(dims):
            if dim is not None:
                found[place] = unfold(found[place], shared=_is_shared(arguments, in_dims, 2 + place))
        return tuple(found), tuple(dims)


class _TransformedSecond(torch.autograd.Function):
    """Second derivatives as such a function."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return _attention_second(*arguments)  # type: ignore[no-any-return]

    setup_context = staticmethod(_setup_nothing)  # type: ignore[assignment]
    backward = staticmethod(_no_third)
    jvp = staticmethod(no_tangents)  # type: ignore[assignment]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        folded, unfold = _fold(info.batch_size, in_dims, arguments, 15, (3, 4, 5, *_SHARED["second"]), like=8)
        gradients, dims = [], []
        for place, gradient in enumerate(_TransformedSecond.apply(*folded), start=6):  # type: ignore[no-untyped-call]
            there = arguments[place] is not None
            dims.append(0 if there else None)
            shared = there and _is_shared(arguments, in_dims, place)
            gradients.append(unfold(gradient, shared=shared) if there else gradient)
        return tuple(gradients), tuple(dims)


def _fold(
    size: int,
    in_dims: tuple[Any, ...],
    arguments: tuple[Any, ...],
    tensors: int,
    shared: tuple[int, ...],
    like: int,
) -> tuple[tuple[Any, ...], Callable[..., Tensor]]:
    """The arguments with the mapped axis in the batch, and what takes a result's batch apart again.

    ``like`` is the place of an argument with the whole batch. What is ``shared`` by it gets a row for
    each entry, so that each entry of the mapped axis has a gradient of its own.
    """
    batch = _batch(arguments[like], in_dims[like])

    def fold(place: int, x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None or x.dtype == torch.uint8:  # the content of a neighborhood
            return x
        x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
        if place in shared:
            x = x.expand(size, batch, *x.shape[2:])
        return x.flatten(0, 1)

    def unfold(x: Tensor, shared: bool = False) -> Tensor:
        x = x.reshape(size, batch, *x.shape[1:])
        return x.sum(1, keepdim=True) if shared else x

    folded = (fold(i, x, in_dims[i]) for i, x in enumerate(arguments[:tensors]))
    return (*folded, *arguments[tensors:]), unfold


def _batch(x: Tensor, dim: int | None) -> int:
    """The size of the batch, without the mapped axis."""
    return x.shape[1 if dim == 0 else 0]


def _is_shared(arguments: tuple[Any, ...], in_dims: tuple[Any, ...], place: int) -> bool:
    return _batch(arguments[place], in_dims[place]) == 1
