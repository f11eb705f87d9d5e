"""The ``cpu`` backend: tensors in, compiled kernels, tensors out."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs, say_extreme
from geoattn.backends.cpu.blocks import AT
from geoattn.backends.cpu.kept import KeptCalls
from geoattn.backends.cpu.passes import (
    adding_pass,
    backward_pass,
    forward_pass,
    shares,
)
from geoattn.backends.cpu.schedule import Chunks, Schedule, schedule
from geoattn.backends.cpu.tables import gradient_tables, relate, table_gradient
from geoattn.backends.reference import Reference
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import lane_plan, numbered_plan


class Cpu:
    """Fused attention over gathered keys in the processor's vector lanes, for every neighborhood.

    What is not a number reaches the queries that see it. In ``v`` and ``grad_out``, and in ``q`` and ``k`` by
    way of the gradients, it may spread to other queries of the same tile of 32 and to the keys that these
    see, and no further; keys that a bias of −∞ hides may hold anything.

    A query that sees only keys with biases beyond half of the largest number needs its largest score taken
    off first: the reference computes such a call, with a warning.
    """

    name = "cpu"
    skips_hidden = True
    knows_relations = True

    def unavailable(self) -> str | None:
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if q.device.type != "cpu":
            return f"it runs on the CPU, and q is on {q.device}"
        if q.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return f"it computes float16, bfloat16, float32 and float64, and q is {q.dtype}"
        return None

    def keep(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, hood: Neighborhood, scale: float
    ) -> KeptCalls | None:
        if any(_readable(x) is not x for x in (q, k, v)):
            return None
        plan = lane_plan(hood)
        scales = _scales(scale, q.shape[2], q.dtype)
        return KeptCalls(plan, schedule(plan, k.shape[1]), _bias(key_bias, q.dtype), scales)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_bias: Tensor | None,
        hood: Neighborhood,
        scale: float | Tensor,
        pairs: Pairs | None = None,
    ) -> Forward:
        operands = q, k, v, key_bias, hood, scale, pairs
        dtype = q.dtype
        q, k, v = map(_readable, (q, k, v))
        work = _schedule(hood, pairs)
        batch, n_queries, heads, _ = q.shape
        related = relate(pairs, batch)
        out = q.new_empty(batch, n_queries, heads, v.shape[3])
        lse = q.new_empty(batch, n_queries, heads)
        bias, scales = _bias(key_bias, q.dtype), _scales(scale, heads, q.dtype)
        made = forward_pass(work, q, k, v, bias, out, lse, scales, related)
        made.run(made.words)
        if made.words[AT.extreme]:
            say_extreme()
            return Reference().forward(*operands)
        return Forward(out if out.dtype is dtype else out.to(dtype), lse)

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
    ) -> Gradients:
        dtype = q.dtype
        grad_out, q, k, v, out = map(_readable, (grad_out, q, k, v, out))
        work = _schedule(hood, pairs)
        batch, n_queries, heads, _ = q.shape
        n_keys, key_heads = v.shape[1:3]
        grad_q, grad_k, grad_v = q.new_empty(q.shape), q.new_empty(k.shape), q.new_empty(v.shape)
        dealt = shares(work, q, k, v, needs_key_bias)
        table = q.new_empty(batch, key_heads, len(dealt.runs.keys), sum(dealt.widths))
        own_bias = q.new_zeros(batch, key_heads, n_keys) if needs_key_bias else None
        own_scale = q.new_empty(batch, n_queries, heads) if needs_scale else None
        related = relate(pairs, batch)
        learned = pairs if needs_table else None
        own_tables = None if learned is None else gradient_tables(learned, len(dealt.runs.tiles) - 1, batch)
        bias, scales = _bias(key_bias, q.dtype), _scales(scale, heads, q.dtype)
        made = backward_pass(
            work, dealt, q, k, v, bias, out, lse, grad_out, grad_lse, scales, grad_q, grad_k, grad_v, table,
            related, own_bias, own_scale, own_tables,
        )  # fmt: skip
        made.run(made.words)
        if len(dealt.runs.keys):  # that several runs touch
            adding_pass(made, q.dtype).run(made.words)
        grad_bias = None
        if own_bias is not None and key_bias is not None:
            grad_bias = _bias_gradient(own_bias, table[..., -dealt.widths[2]], dealt.runs, key_bias)
        grad_scale = None
        if own_scale is not None and isinstance(scale, Tensor):
            grad_scale = own_scale.sum((0, 1)).unsqueeze(0) if scale.shape[0] == 1 else own_scale.sum(1)
        grad_table = None
        if own_tables is not None and learned is not None:
            grad_table = table_gradient(own_tables, learned.table)
        if q.dtype is not dtype:
            grad_q, grad_k, grad_v = grad_q.to(dtype), grad_k.to(dtype), grad_v.to(dtype)
        return Gradients(grad_q, grad_k, grad_v, grad_bias, grad_scale, grad_table)


def _bias_gradient(own: Tensor, columns: Tensor, runs: Chunks, key_bias: Tensor) -> Tensor:
    """Sum the gradients of keys of one run ``[B, Hkv, keys]`` and the bias columns ``[B, Hkv, rows]``."""
    gradient, rows = own.sum(1), columns.sum(1)
    if key_bias.shape[0] == 1:
        gradient, rows = gradient.sum(0, keepdim=True), rows.sum(0, keepdim=True)
    for low, high in itertools.pairwise(runs.indptr.tolist()):
        gradient[:, torch.as_tensor(runs.keys[low:high].copy()).long()] += rows[:, low:high]
    return gradient


def _schedule(hood: Neighborhood, pairs: Pairs | None) -> Schedule:
    plan = lane_plan(hood) if pairs is None else numbered_plan(pairs.relation)
    return schedule(plan, hood.key_grid.size)


def _scales(scale: float | Tensor, heads: int, dtype: torch.dtype) -> NDArray[np.floating]:
    """Factors of q·k, ``[B or 1, heads]``."""
    return (
        np.ascontiguousarray(scale.detach().numpy())
        if isinstance(scale, Tensor)
        else _one_scale(scale, heads, dtype)
    )


@functools.lru_cache(maxsize=64)
def _one_scale(scale: float, heads: int, dtype: torch.dtype) -> NDArray[np.floating]:
    return np.full((1, heads), scale, np.float64 if dtype == torch.float64 else np.float32)


def _readable(x: Tensor) -> Tensor:
    """In a dtype that the kernels compute in, with adjacent channels; no copy where that is so already."""
    if x.dtype is not torch.float32 and x.dtype is not torch.float64:
        x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _bias(key_bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if key_bias is None:
        return None
    return (key_bias if key_bias.dtype is dtype else key_bias.to(dtype)).contiguous()
