"""Calls of one form on a CUDA device: their launches, in which each call writes its addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from geoattn.backends.base import flat_views
from geoattn.backends.cuda.launches import Launch
from geoattn.backends.cuda.operands import ALIGNMENT, KeyBias, lies_well, near
from geoattn.backends.cuda.plans import DevicePlan, device_plan
from geoattn.neighborhoods.base import Neighborhood

if TYPE_CHECKING:
    from geoattn.backends.cuda.backend import Cuda


class _Backward(NamedTuple):
    transposed: DevicePlan
    statistics: Launch
    of_queries: Launch
    of_keys: tuple[Launch, ...]


class KeptCalls:
    """See :class:`geoattn.backends.base.Kept`.

    Plans are asked for at each call, as a graph that is being captured must keep them.
    """

    def __init__(
        self, backend: Cuda, plan: DevicePlan, forward: Launch, bias: KeyBias, scale: float, queries: int
    ) -> None:
        self._backend, self._plan, self._forward = backend, plan, forward
        self._bias, self._scale, self._queries = bias, scale, queries
        self._backward: dict[tuple[object, ...], _Backward] = {}  # by strides of gradients

    def forward(self, hood: Neighborhood, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
        of_q, of_k, of_v = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if (of_q | of_k | of_v) % ALIGNMENT or device_plan(hood, self._device) is not self._plan:
            return None
        shape = q.shape[:-1]
        out = q.new_empty((*shape, v.shape[-1]))
        lse = q.new_empty(shape, dtype=torch.float32)
        words = self._forward.at(
            (of_q, of_k, of_v, out.data_ptr(), lse.data_ptr(), self._bias.numbers[0], 0, 0)
        )
        self._backend.launch(self._forward, words, q, k, v, out, lse, self._bias.exponents)
        return out, lse

    @property
    def _device(self) -> torch.device:
        return self._forward.device

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
        of_do, of_q, of_k, of_v = grad_out.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr()
        if (of_do | of_q | of_k | of_v) % ALIGNMENT or device_plan(hood, self._device) is not self._plan:
            return None
        transposed = device_plan(hood.transpose(), self._device)
        gradients = dq, dk, dv = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
        form = grad_out.stride(), None if grad_lse is None else grad_lse.stride()
        kept = self._backward.get(form)
        if kept is None or kept.transposed is not transposed:
            made = self._launches(transposed, grad_out, grad_lse, q, k, v, out, lse, gradients)
            if made is None:
                return None
            kept = self._backward[form] = made
        statistics = lse.new_empty((q.shape[0], q.shape[-2], self._queries, 2))
        of_dlse = 0 if grad_lse is None else grad_lse.data_ptr()
        of_statistics = statistics.data_ptr()
        launch, exponents = self._backend.launch, self._bias.exponents
        words = kept.statistics.at((out.data_ptr(), of_do, lse.data_ptr(), of_dlse, of_statistics))
        launch(kept.statistics, words, out, grad_out, lse, grad_lse, statistics)
        rest = of_statistics, self._bias.numbers[0], 0, 0, 0
        words = kept.of_queries.at((of_q, of_do, of_k, of_v, dq.data_ptr(), of_do, *rest))
        launch(kept.of_queries, words, q, grad_out, k, v, dq, statistics, exponents)
        addresses = of_k, of_v, of_q, of_do, dk.data_ptr(), dv.data_ptr(), *rest
        for of_keys in kept.of_keys:
            launch(of_keys, of_keys.at(addresses), k, v, q, grad_out, dk, dv, statistics, exponents)
        return gradients

    def _launches(
        self,
        transposed: DevicePlan,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        gradients: tuple[Tensor, Tensor, Tensor],
    ) -> _Backward | None:
        """The launches for gradients of these strides; None if kernels cannot read them where they lie."""
        rows = flat_views(grad_out, q, k, v, out, *gradients)
        numbers = flat_views(*(x for x in (lse, grad_lse) if x is not None), behind=1)
        if rows is None or numbers is None:
            return None
        (do, q, k, v, out, dq, dk, dv), (lse, *of_lse) = rows, numbers
        if not lies_well(do) or not all(map(near, of_lse)):
            return None
        backend, more = self._backend, (q.shape[2] // k.shape[2], self._bias, self._scale, None)
        return _Backward(
            transposed,
            backend.statistics_launch(self._plan, out, do, lse, of_lse[0] if of_lse else None),
            backend.query_launch(self._plan, (q, do, k, v, dq, do), *more),
            backend.key_launches(transposed, (k, v, q, do, dk, dv), *more),
        )
