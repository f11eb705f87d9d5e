"""Calls of one form on the CPU: their blocks, in which each call writes its addresses."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.backends.base import flat_views
from geoattn.backends.cpu.blocks import AT
from geoattn.backends.cpu.passes import (
    Pass,
    Related,
    adding_pass,
    backward_pass,
    forward_pass,
    shares,
)
from geoattn.backends.cpu.schedule import Schedule
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import LanePlan, lane_plan

_ALONE = Related(None, None, None)


class _Backward(NamedTuple):
    of_queries: Pass
    #: of keys that several runs touch, if there are any, and the shape of their table
    of_keys: Pass | None
    table: tuple[int, ...]


class KeptCalls:
    """See :class:`geoattn.backends.base.Kept`.

    Blocks point into the plan, which it does not hold: plans have a budget of their own.
    """

    def __init__(
        self, plan: LanePlan, work: Schedule, bias: Tensor | None, scales: NDArray[np.floating]
    ) -> None:
        self._plan, self._work = weakref.ref(plan), weakref.ref(work)
        self._bias, self._scales = bias, scales
        self._forward: dict[int, Pass] = {}  # by the number of torch's threads
        self._backward: dict[tuple[object, ...], _Backward] = {}  # and strides of gradients

    def forward(self, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
        plan = lane_plan(hood)
        if plan is not self._plan():
            return None
        shape = q.shape[:-1]
        out, lse = q.new_empty((*shape, v.shape[-1])), q.new_empty(shape)
        n_threads = torch.get_num_threads()
        kept = self._forward.get(n_threads)
        if kept is None:
            kept = self._forward[n_threads] = self._forward_pass(q, k, v, out, lse)
        words = kept.words[:]
        words[AT.q], words[AT.k], words[AT.v] = q.data_ptr(), k.data_ptr(), v.data_ptr()
        words[AT.out], words[AT.lse] = out.data_ptr(), lse.data_ptr()
        kept.run(words)
        return None if words[AT.extreme] else (out, lse)

    def _forward_pass(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> Pass:
        q, k, v, out = (x.detach().flatten(1, -3) for x in (q, k, v, out))
        return forward_pass(
            self._schedule(), q, k, v, self._bias, out, lse.flatten(1, -2), self._scales, _ALONE
        )

    def _schedule(self) -> Schedule:
        work = self._work()
        assert work is not None  # it lives as long as the plan
        return work

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
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        plan = lane_plan(hood)
        if plan is not self._plan():
            return None
        strides = grad_out.stride(), None if grad_lse is None else grad_lse.stride()
        form = (torch.get_num_threads(), *strides)
        gradients = q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape)
        kept = self._backward.get(form)
        if kept is None:
            made = self._backward_passes(grad_out, grad_lse, q, k, v, out, lse, gradients)
            if made is None:
                return None
            kept = self._backward[form] = made
        table = None if kept.of_keys is None else q.new_empty(kept.table)
        words = kept.of_queries.words[:]
        words[AT.q], words[AT.k], words[AT.v] = q.data_ptr(), k.data_ptr(), v.data_ptr()
        words[AT.out], words[AT.lse], words[AT.grad_out] = out.data_ptr(), lse.data_ptr(), grad_out.data_ptr()
        words[AT.grad_lse] = 0 if grad_lse is None else grad_lse.data_ptr()
        words[AT.grad_q], words[AT.grad_k], words[AT.grad_v] = (x.data_ptr() for x in gradients)
        words[AT.table] = 0 if table is None else table.data_ptr()
        kept.of_queries.run(words)
        if kept.of_keys is not None:
            kept.of_keys.run(words)
        return gradients

    def _backward_passes(
        self,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        gradients: tuple[Tensor, Tensor, Tensor],
    ) -> _Backward | None:
        """The passes for gradients of these strides; None if kernels cannot read them where they lie."""
        rows = flat_views(grad_out, q, k, v, out, *gradients)
        numbers = flat_views(*(x for x in (lse, grad_lse) if x is not None), behind=1)
        if rows is None or numbers is None:
            return None
        (do, q, k, v, out, dq, dk, dv), (lse, *of_lse) = rows, numbers
        if not (do.stride(-1) == 1 or do.shape[-1] == 1) or do.dtype is not q.dtype:
            return None
        work = self._schedule()
        dealt = shares(work, q, k, v, needs_key_bias=False)
        table = q.new_empty(q.shape[0], k.shape[2], len(dealt.runs.keys), sum(dealt.widths))
        of_queries = backward_pass(
            work, dealt, q, k, v, self._bias, out, lse, do, of_lse[0] if of_lse else None, self._scales,
            dq, dk, dv, table, _ALONE,
        )  # fmt: skip
        of_keys = adding_pass(of_queries, q.dtype) if len(dealt.runs.keys) else None
        return _Backward(of_queries, of_keys, tuple(table.shape))
