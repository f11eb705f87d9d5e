"""What every backend is: forward and backward of one operator on flat tokens."""

from __future__ import annotations

import functools
from typing import NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor

from geoattn._warning import warn
from geoattn.neighborhoods.base import Neighborhood
from geoattn.relations.base import Relation


class Forward(NamedTuple):
    """Output ``[B, Nq, H, Dv]`` in the dtype of q, and natural-log lse ``[B, Nq, H]`` (float64 for
    float64 inputs, else float32). A query without a visible key has output 0 and lse −inf.

    Examples
    --------
    >>> ga.backends.Forward(out=torch.zeros(1, 2, 1, 4), lse=torch.zeros(1, 2, 1)).lse.shape
    torch.Size([1, 2, 1])
    """

    out: Tensor
    lse: Tensor


class Pairs(NamedTuple):
    """A bias for every pair: the entry of a table that stands under the number of the edge."""

    relation: Relation
    #: ``[B or 1, H, count]``, or one for each query ``[B, Nq, H, count]``; float64 for float64 inputs, else
    #: float32
    table: Tensor


class Gradients(NamedTuple):
    """Gradients in the shapes and dtypes of q, k, v, and of the additive key vector, a tensor of scales and
    the table of a relation (None where they are not asked for).

    Examples
    --------
    >>> q = torch.zeros(1, 2, 1, 4)
    >>> ga.backends.Gradients(q, q, q, None).scale is None
    True
    """

    q: Tensor
    k: Tensor
    v: Tensor
    key_bias: Tensor | None
    scale: Tensor | None = None
    table: Tensor | None = None


class Backend(Protocol):
    """One way to run attention over a neighborhood.

    Shapes: q ``[B, Nq, H, D]``, k ``[B, Nk, Hkv, D]``, v ``[B, Nk, Hkv, Dv]``, any strides, H a
    multiple of Hkv. ``key_bias`` is the one additive per-key vector (log-weights, mask as −inf,
    bias), ``[B or 1, Nk]``, float64 for float64 inputs, else float32. ``scale`` multiplies q·k: a number,
    or ``[B or 1, H]`` in the dtype of the key vector, by which q itself in half precision is never
    multiplied. The gradient of such a tensor is that of its numbers at any value, 0 too. A bias for every
    pair is for those that say ``knows_relations = True``, see :class:`PairBackend`.

    A key is hidden by the pattern or by an additive −∞ and by nothing else; one in the table hides the pair.
    Keys and values that −∞ hides
    arrive as zeros, unless the backend says ``skips_hidden = True``: it then never looks at what they hold.
    What is not a number elsewhere must reach the results of the queries that see it; it may spread to other
    queries of the same tile by way of v and in the backward pass, if the docstring says so. Backward passes
    whose finite lse lies beyond :data:`PRECISE` go to the reference, unless the caller adds nothing per key.

    Examples
    --------
    >>> ga.backends.get("reference").unavailable() is None
    True
    """

    name: str

    def unavailable(self) -> str | None:
        """Why this backend cannot run on this machine at all, or None."""

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        """Why it cannot run these arguments (device, dtype, head dims, pattern), or None."""

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
    ) -> Forward: ...

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
    ) -> Gradients: ...


class PairBackend(Backend, Protocol):
    """A backend that adds a bias for every pair too; it says so."""

    knows_relations: bool

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
        pairs: Pairs | None = None,
    ) -> Forward: ...

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
        pairs: Pairs | None = None,
        needs_table: bool = False,
    ) -> Gradients: ...


class Kept(Protocol):
    """What a backend prepared for calls of one form: q, k and v of known shapes, strides and dtypes.

    Tensors are as the caller has them, ``[B, *grid.shape, H, D]``, and so are the results: ``out``, and
    ``lse`` without channels. Each may return None for a call that is beyond it, which then goes the usual
    way.
    """

    def forward(
        self, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor] | None: ...

    def backward(
        self,
        hood: Neighborhood,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor] | None: ...


class KeepingBackend(Backend, Protocol):
    """A backend that prepares calls: :mod:`geoattn.calls` says which."""

    def keep(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, hood: Neighborhood, scale: float
    ) -> Kept | None:
        """What calls of the form of this one need, or None; tensors are flat over tokens.

        The neighborhood will hold it, so that it must not hold the neighborhood.
        """


def flat_views(*tensors: Tensor, behind: int = 2) -> list[Tensor] | None:
    """Tensors ``[B, *grid.shape, …]`` flat over the grid, and ``behind`` axes; None if that takes a copy."""
    flat = [x.detach().flatten(1, -1 - behind) for x in tensors]
    return None if any(x.data_ptr() != y.data_ptr() for x, y in zip(flat, tensors, strict=True)) else flat


def knows_relations(backend: Backend) -> TypeGuard[PairBackend]:
    """Whether a backend adds a bias for every pair."""
    return getattr(backend, "knows_relations", False)


def keeps_calls(backend: Backend) -> TypeGuard[KeepingBackend]:
    """Whether a backend prepares calls, and those that its own ``forward`` and ``backward`` would run.

    A class that only extends these of another would lose them to what the other prepares.
    """
    kinds = type(backend).__mro__
    keep, *passes = (
        next((place for place, kind in enumerate(kinds) if name in vars(kind)), len(kinds))
        for name in ("keep", "forward", "backward")
    )
    return keep < len(kinds) and keep <= min(passes)


def is_computed(dtype: torch.dtype) -> bool:
    """Whether attention computes with numbers of ``dtype``: floating point of 16, 32 or 64 bits."""
    return dtype.is_floating_point and dtype.itemsize > 1


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: of scores, sums, lse, scales and the additive key vector."""
    return torch.float64 if dtype == torch.float64 else torch.float32


#: a log-sum-exp beyond this has lost the digits from which a backward pass makes probabilities
PRECISE = {torch.float32: 2.0**13, torch.float64: 2.0**42}


def reaches_too_far(lse: Tensor) -> bool:
    """Whether a finite log-sum-exp is beyond :data:`PRECISE`, and say so once.

    That takes a query all of whose visible keys have huge biases. The reference makes its probabilities
    anew, other backends from the lse. While a CUDA graph is captured, nothing can be asked of a device, and
    the answer is no.
    """
    if lse.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    bound = PRECISE[lse.dtype]
    far = bool(((lse.abs() > bound) & lse.isfinite()).any())
    if far:
        say_extreme()
    return far


@functools.cache
def say_extreme() -> None:
    """Warn, once, that biases keep a call from the fast kernels."""
    warn(
        "some query sees only keys with huge biases (such as the lowest number of a dtype): their softmax is "
        "that of the biases alone, which only the reference computes to the last digit, so this call is "
        "its own, and slow; hide keys with key_mask, or with a bias of -inf"
    )


def forward_of_multiplied(
    backend: Backend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    hood: Neighborhood,
    scale: Tensor,
    pairs: Pairs | None = None,
) -> Forward:
    """The forward pass on kernels that know one number only: of queries multiplied by their scales.

    Half precision is computed in float32, so that no query is rounded twice.
    """
    wide_q, wide_k, wide_v = (x.to(accumulation_dtype(q.dtype)) for x in (q, k, v))
    arguments = wide_q * scale[:, None, :, None], wide_k, wide_v, key_bias, hood, 1.0
    out, lse = backend.forward(*arguments, pairs) if knows_relations(backend) else backend.forward(*arguments)
    return Forward(out.to(q.dtype), lse)


def backward_of_multiplied(
    backend: Backend,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    hood: Neighborhood,
    scale: Tensor,
    needs_key_bias: bool,
    pairs: Pairs | None = None,
    needs_table: bool = False,
) -> Gradients:
    """The backward pass that belongs to :func:`forward_of_multiplied`."""
    do, wide_q, wide_k, wide_v, wide_out = (
        x.to(accumulation_dtype(q.dtype)) for x in (grad_out, q, k, v, out)
    )
    factor = scale[:, None, :, None]
    operands = do, grad_lse, wide_q * factor, wide_k, wide_v, key_bias, wide_out, lse, hood, 1.0
    if knows_relations(backend):
        found = backend.backward(*operands, needs_key_bias, False, pairs, needs_table)
    else:
        found = backend.backward(*operands, needs_key_bias)
    dq, dk, dv, db, _, dtable = found
    each = (dq * wide_q).sum((1, 3))
    dscale = each.sum(0, keepdim=True) if scale.shape[0] == 1 else each
    return Gradients((dq * factor).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), db, dscale, dtable)
