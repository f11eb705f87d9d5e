"""Rows of tokens on their way between processes, and their gradients on the way back.

Everything here is a linear map, and its derivative is its adjoint: tokens are picked for others, and what
others hand back is summed, in the order of the processes, so that results repeat bit for bit; what arrives
departs again going backward.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoattn.backends.torch_private import all_reduce, all_to_all, wait


@dataclasses.dataclass(frozen=True, eq=False)
class Route:
    """How many rows go to each process of a group, and come from each."""

    group: str
    sent: list[int]
    received: list[int]

    @property
    def back(self) -> Route:
        return Route(self.group, self.received, self.sent)


class Flight(NamedTuple):
    """Rows on their way."""

    #: room for what comes, filled on arrival
    message: Tensor
    #: of the shape of what was sent, that is of its gradient; only autograd looks at it
    ticket: Tensor


def depart(message: Tensor, route: Route) -> Flight:
    """Send ``message [rows, …]``, rows in the order of their destinations; compute, then :func:`arrive`."""
    return Flight(*_Depart.apply(message, route))  # type: ignore[no-untyped-call]


def arrive(flight: Flight, route: Route) -> Tensor:
    """What others sent, rows in the order of their origins.

    Going backward, its gradient departs here and arrives where the message departed.
    """
    found: Tensor = _Arrive.apply(*flight, route)  # type: ignore[no-untyped-call]
    return found


class _Depart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: Tensor, route: Route) -> tuple[Tensor, Tensor]:
        sent = all_to_all(message.contiguous(), route.received, route.sent, route.group)
        ctx.mark_non_differentiable(sent)
        return sent, message.new_zeros(()).expand(message.shape)

    @staticmethod
    def backward(ctx: Any, _: Tensor, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient if torch.is_grad_enabled() else wait(gradient)), None


class _Arrive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: Tensor, ticket: Tensor, route: Route) -> Tensor:
        ctx.route = route.back
        return wait(message)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        route = ctx.route
        if torch.is_grad_enabled():  # for derivatives of derivatives nothing is computed meanwhile
            return None, exchange(gradient, route), None
        return None, all_to_all(gradient.contiguous(), route.received, route.sent, route.group), None


def exchange(message: Tensor, route: Route) -> Tensor:
    """Send and receive at once."""
    found: Tensor = _Exchange.apply(message, route)  # type: ignore[no-untyped-call]
    return found


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, message: Tensor, route: Route) -> Tensor:
        ctx.route = route.back
        return wait(all_to_all(message.contiguous(), route.received, route.sent, route.group))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return exchange(gradient, ctx.route), None


def total(x: Tensor, group: str) -> Tensor:
    """The sum of a tensor over the processes of a group, on each of them; its adjoint is itself."""
    found: Tensor = _Total.apply(x, group)  # type: ignore[no-untyped-call]
    return found


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: str) -> Tensor:
        ctx.group = group
        return wait(all_reduce(x.contiguous(), group))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return total(gradient, ctx.group), None


@dataclasses.dataclass(frozen=True, eq=False)
class Picked:
    """Which of ``size`` tokens go to each process, each at most once to one."""

    size: int
    tokens: tuple[Tensor, ...]

    @cached_property
    def all(self) -> Tensor:
        return torch.cat(self.tokens)


def pick(x: Tensor, picked: Picked) -> Tensor:
    """``x [B, size, …]`` at the tokens for all processes, one process after the other."""
    found: Tensor = _Pick.apply(x, picked)  # type: ignore[no-untyped-call]
    return found


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, picked: Picked) -> Tensor:
        ctx.picked = picked
        return x.index_select(1, picked.all)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        found: Tensor = _Sum.apply(gradient, ctx.picked)  # type: ignore[no-untyped-call]
        return found, None


class _Sum(torch.autograd.Function):
    """The adjoint: for each token the sum over its copies, that of the first process first."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, picked: Picked) -> Tensor:
        ctx.picked = picked
        total = copies.new_zeros(copies.shape[0], picked.size, *copies.shape[2:])
        parts = torch.split(copies, [len(tokens) for tokens in picked.tokens], 1)
        for tokens, part in zip(picked.tokens, parts, strict=True):
            if len(tokens):
                total.index_add_(1, tokens, part)  # no token twice: nothing whose order could differ
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return pick(gradient, ctx.picked), None


def travel(tensors: Sequence[Tensor], route: Route) -> Callable[[], list[Tensor]]:
    """Send ``tensors [B, tokens, …]``, tokens in the order of their destinations.

    Those of one dtype travel together.

    Returns
    -------
    The function that waits for what others send, and returns it as ``[B, tokens, …]`` of each tensor.
    """
    groups = _by_dtype(tensors)
    messages = [
        depart(torch.cat([columns(tensors[place]) for place in places], 1), route) for places in groups
    ]

    def received() -> list[Tensor]:
        found = list(tensors)
        for message, places in zip(messages, groups, strict=True):
            widths = [_width(tensors[place]) for place in places]
            parts = torch.split(arrive(message, route), widths, 1)
            for place, rows in zip(places, parts, strict=True):
                found[place] = uncolumns(rows, tensors[place])
        return found

    return received


def _by_dtype(tensors: Iterable[Tensor]) -> list[list[int]]:
    """Places of the tensors of each dtype."""
    groups: dict[torch.dtype, list[int]] = {}
    for place, x in enumerate(tensors):
        groups.setdefault(x.dtype, []).append(place)
    return list(groups.values())


def _width(x: Tensor) -> int:
    """Numbers of one token."""
    return math.prod((x.shape[0], *x.shape[2:]))


def columns(x: Tensor) -> Tensor:
    """``x [B, tokens, …]`` as one row for each token, ``[tokens, C]``."""
    return x.transpose(0, 1).reshape(x.shape[1], _width(x))


def uncolumns(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse: rows as ``[B, tokens, …]``, with the axes of ``like``."""
    return rows.view(rows.shape[0], like.shape[0], *like.shape[2:]).transpose(0, 1)


def swap(
    sent: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[tuple[int, ...]]], group: str
) -> Callable[[], list[list[Tensor]]]:
    """Send a tensor to each process, for each of several kinds, together where kinds have one dtype.

    Parameters
    ----------
    sent
        For each kind the tensor for each process.
    shapes
        For each kind the shape of what each process sends here.

    Returns
    -------
    The function that waits for what comes, and returns it for each kind from each process.
    """
    n = len(sent[0])
    travelling = []
    for alike in _by_dtype(tensors[0] for tensors in sent):
        out = [torch.cat([sent[kind][other].reshape(-1) for kind in alike]) for other in range(n)]
        sizes = [[math.prod(shapes[kind][other]) for kind in alike] for other in range(n)]
        route = Route(group, [len(x) for x in out], [sum(size) for size in sizes])
        travelling.append((depart(torch.cat(out), route), route, alike, sizes))

    def received() -> list[list[Tensor]]:
        found: list[list[Tensor]] = [[] for _ in sent]
        for message, route, alike, sizes in travelling:
            parts = iter(torch.split(arrive(message, route), [size for of_one in sizes for size in of_one]))
            for other in range(n):
                for kind in alike:
                    found[kind].append(next(parts).view(shapes[kind][other]))
        return found

    return received
