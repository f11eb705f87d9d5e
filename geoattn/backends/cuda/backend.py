"""The operator on tensor cores: plans of 64×64 tiles, kernels from the folder ``cuda``."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs
from geoattn.backends.chunks import table_gradient
from geoattn.backends.cuda import arguments, variants
from geoattn.backends.cuda import device as cuda_device
from geoattn.backends.cuda.arguments import View
from geoattn.backends.cuda.plans import DevicePlan, device_plan
from geoattn.backends.cuda.variants import Variant
from geoattn.neighborhoods.base import Neighborhood

#: rows start at multiples of this many bytes, and hold as many elements that their bytes are one too
ALIGNMENT = 16
#: and lie at most as many bytes apart from one token to the next
MOST_TOKEN_STRIDE = 2**32 - 1

LOG2_E = math.log2(math.e)
#: exponents of 2 beyond this are bent back, so that all finite biases have finite ones, in their order
BEND = 2.0**125

#: side of a plan's tiles
TILE = 64
#: gradients of scores that are held at once, added up over the tiles that share a list
MOST_SUMS = 2**26
#: numbers that are added up one after the other
RUN = 256


class Cuda:
    """Block-sparse attention with running softmax on tensor cores, float32 inputs in split precision.

    A relation's table gets its gradient without atomics; one with entries for each query gets it from dense
    chunks, as in the reference, which is slow.

    What is not a number reaches the queries that see it. In ``v``, in infinite numbers of ``k``, and going
    backward it may spread to other queries of the same tile of 64, and to the keys of their tiles, and no
    further.
    """

    name = "cuda"
    knows_relations = True
    device_type = "cuda"

    def unavailable(self) -> str | None:
        return cuda_device.unavailable()

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if q.device.type != self.device_type:
            return f"tensors are on {q.device}, not on a {self.device_type} device"
        if q.dtype not in variants.ELEMENTS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in variants.ELEMENTS)
            return f"dtype {str(q.dtype).removeprefix('torch.')} is not among {known}"
        widest = max(q.shape[-1], v.shape[-1])
        if widest > variants.HEAD_DIMS[-1]:
            return f"head dim {widest} is above {variants.HEAD_DIMS[-1]}"
        if q.device.type != "cuda" or self.unavailable() is not None:
            return None
        return cuda_device.unfit(q.device.index)  # a machine may hold devices of which only some are fit

    def architecture(self, device: torch.device) -> int:
        """Compute capability that variants are chosen for, such as 90 for 9.0."""
        return cuda_device.architecture(device.index)

    def launch(
        self, variant: Variant, blocks: int, structure: ctypes.Structure, tensors: Sequence[Tensor]
    ) -> None:
        """Run ``blocks`` blocks of a kernel; ``tensors`` are those that the structure points into."""
        cuda_device.launch(variant, blocks, structure, tensors[0].device)

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
        batch, queries, heads, score_dim = q.shape
        value_dim = v.shape[-1]
        plan = device_plan(hood if pairs is None else pairs.relation, q.device)
        q, k, v = _readable(q), _readable(k), _readable(v)
        out = q.new_empty(batch, queries, heads, v.shape[-1])
        lse = q.new_empty(batch, queries, heads, dtype=torch.float32)
        bias, table = _exponents(key_bias), _exponents(None if pairs is None else pairs.table)
        structure = arguments.Forward(
            arguments.Plan.of(plan),
            View.of(q),
            View.of(k),
            View.of(v),
            View.of(out),
            View.of(lse),
            *_bias(bias),
            batch,
            heads,
            heads // k.shape[2],
            q.shape[-1],
            v.shape[-1],
            arguments.Scale.of(scale),
            arguments.Relation.of(plan, table),
        )
        shape = q.dtype, score_dim, value_dim, plan.masked, self.architecture(q.device)
        variant = variants.forward(*shape, plan.number_bits)
        more = (x for x in (bias, scale, table) if isinstance(x, Tensor))
        tensors = (q, k, v, out, lse, *more, *plan.tensors)
        self.launch(variant, plan.n_tiles * variant.parts * batch * heads, structure, tensors)
        return Forward(out[..., :value_dim], lse)

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
        (batch, queries, heads, score_dim), (_, keys, key_heads, value_dim) = q.shape, v.shape
        shared_by = heads // key_heads
        of = hood if pairs is None else pairs.relation
        plan, transposed = device_plan(of, q.device), device_plan(of.transpose(), q.device)
        given = grad_out, grad_lse, q, k, v, key_bias, hood, scale
        q, k, v, out, grad_out = (_readable(x) for x in (q, k, v, out, grad_out))
        bias, table = _exponents(key_bias), _exponents(None if pairs is None else pairs.table)
        statistics = self._statistics(out, grad_out, lse, grad_lse)
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)

        def run(
            variant: Variant, plan: DevicePlan, row_heads: int, views: Sequence[Tensor], sums: Tensor | None
        ) -> None:
            structure = arguments.Gradients(
                arguments.Plan.of(plan),
                *(View.of(x) for x in views),
                statistics.data_ptr(),
                *_bias(bias),
                None if sums is None else sums.data_ptr(),
                batch,
                heads,
                shared_by,
                queries,
                keys,
                q.shape[-1],
                v.shape[-1],
                arguments.Scale.of(scale),
                arguments.Relation.of(plan, table),
            )
            more = (x for x in (bias, sums, scale, table) if isinstance(x, Tensor))
            tensors = (*views, statistics, *more, *plan.tensors)
            self.launch(variant, plan.n_tiles * variant.parts * batch * row_heads, structure, tensors)

        shape = (q.dtype, score_dim, value_dim)
        architecture = self.architecture(q.device)
        # queries have no gradient of a value: the place of that view is not written
        variant = variants.query_gradient(*shape, plan.masked, architecture, plan.number_bits)
        parts = (variant.slices, batch, heads, queries)
        ds = q.new_empty(parts, dtype=torch.float32) if needs_scale else None
        run(variant, plan, heads, (q, grad_out, k, v, dq, grad_out), ds)
        dtable = None
        if needs_table and pairs is not None and pairs.table.ndim == 4:  # each query has a table of its own
            dtable = table_gradient(*given, pairs)
        elif needs_table and table is not None:
            variant = variants.table_gradient(*shape, plan.masked, architecture, plan.number_bits)
            dtable = self._table_gradient(variant, plan, (q, grad_out, k, v), statistics, bias, table, scale)
        apart = shared_by > 1 and isinstance(scale, Tensor)
        if apart:  # rows of keys know one scale: each query head gets keys of its own
            k, v = (x.repeat_interleave(shared_by, 2) for x in (k, v))
            row_heads, shared_by = heads, 1
        else:
            row_heads = key_heads
        dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))
        db = q.new_empty(batch, row_heads, keys, dtype=torch.float32) if needs_key_bias else None
        known = transposed.masked, architecture, transposed.number_bits
        for variant in variants.key_gradients(*shape, *known):
            run(variant, transposed, row_heads, (k, v, q, grad_out, dk, dv), db)
        if apart:
            dk, dv = (
                x.reshape(batch, keys, key_heads, heads // key_heads, -1).float().sum(3).to(x.dtype)
                for x in (dk, dv)
            )
        if db is not None and key_bias is not None:
            db = db.sum((0, 1)).unsqueeze(0) if key_bias.shape[0] == 1 else db.sum(1)
        if ds is not None and isinstance(scale, Tensor):
            ds = ds.sum((0, 1, 3)).unsqueeze(0) if scale.shape[0] == 1 else ds.sum((0, 3))
        return Gradients(dq[..., :score_dim], dk[..., :score_dim], dv[..., :value_dim], db, ds, dtable)

    def _table_gradient(
        self,
        variant: Variant,
        plan: DevicePlan,
        views: tuple[Tensor, Tensor, Tensor, Tensor],
        statistics: Tensor,
        bias: Tensor | None,
        table: Tensor,
        scale: float | Tensor,
    ) -> Tensor:
        """The gradient of a table ``[B or 1, H, count]``; ``views`` are q, grad_out, k and v."""
        q, grad_out, k, _ = views
        batch, queries, heads, _ = q.shape
        assert plan.items is not None
        assert plan.class_tiles is not None
        assert plan.numbers is not None
        total = torch.zeros_like(table)
        step = max(1, MOST_SUMS // (batch * heads * TILE**2))
        for first in range(0, len(plan.items), step):
            items = plan.items[first : first + step]
            sums = q.new_empty(batch * heads, len(items), TILE**2, dtype=torch.float32)
            structure = arguments.Table(
                arguments.Plan.of(plan),
                *(View.of(x) for x in views),
                statistics.data_ptr(),
                *_bias(bias),
                items.data_ptr(),
                plan.class_tiles.data_ptr(),
                sums.data_ptr(),
                len(items),
                batch,
                heads,
                heads // k.shape[2],
                queries,
                q.shape[-1],
                grad_out.shape[-1],
                arguments.Scale.of(scale),
                arguments.Relation.of(plan, table),
            )
            more = (x for x in (bias, scale) if isinstance(x, Tensor))
            tensors = (*views, statistics, sums, table, *more, *plan.tensors)
            parts = variant.parts * (TILE // variant.columns)
            self.launch(variant, len(items) * parts * batch * heads, structure, tensors)
            numbers = plan.numbers.flatten(1).index_select(0, items[:, 3].long()).flatten()
            if plan.number_bits == 16:
                numbers = numbers.int() & 0xFFFF
            found = sum_by_number(sums.flatten(1), numbers, table.shape[-1]).reshape(batch, heads, -1)
            total += found.sum(0, keepdim=True) if table.shape[0] == 1 else found
        return total

    def _statistics(self, out: Tensor, grad_out: Tensor, lse: Tensor, grad_lse: Tensor | None) -> Tensor:
        """−lse · log₂ e and delta of each query, ``[B, H, Nq, 2]``."""
        batch, queries, heads, value_dim = out.shape
        statistics = out.new_empty(batch, heads, queries, 2, dtype=torch.float32)
        rows = batch * heads * queries
        if grad_lse is not None and not _near(grad_lse):
            grad_lse = grad_lse.contiguous()
        structure = arguments.Delta(
            View.of(out),
            View.of(grad_out),
            View.of(lse),
            View() if grad_lse is None else View.of(grad_lse),
            statistics.data_ptr(),
            rows,
            heads,
            queries,
            value_dim,
        )
        tensors = (out, grad_out, lse, statistics, *(() if grad_lse is None else (grad_lse,)))
        self.launch(variants.delta(out.dtype), math.ceil(rows / 16), structure, tensors)
        return statistics


def sum_by_number(values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Sums ``[m, count]`` of the values ``[m, n]`` that have a number ``[n]`` in common, in a fixed order."""
    values = values.index_select(1, numbers.argsort(stable=True))
    lengths = numbers.bincount(minlength=count)
    runs = (lengths + RUN - 1) // RUN  # one after the other, and then these: many threads share a long sum
    of_runs = lengths.new_full((int(runs.sum()),), RUN)
    last = runs.cumsum(0) - 1
    of_runs[last[lengths > 0]] = ((lengths - 1) % RUN + 1)[lengths > 0]
    for size in (of_runs, runs):
        each = size.expand(len(values), -1).contiguous()
        values = torch.segment_reduce(values, "sum", lengths=each, axis=1, unsafe=True, initial=0)
    return values


def _readable(x: Tensor) -> Tensor:
    """The tensor itself if kernels can read its rows in pieces of 16 bytes, else a padded copy.

    Models meet the condition as soon as their head dims are multiples of 8 (of 4 in float32), and
    their tokens lie less than 4 GiB apart.
    """
    size = x.element_size()
    starts = (x.data_ptr(), *(stride * size for stride in x.stride()[:-1]), x.shape[-1] * size)
    if _near(x) and x.stride(-1) == 1 and all(start % ALIGNMENT == 0 for start in starts):
        return x
    padding = -x.shape[-1] % (ALIGNMENT // size)
    return torch.nn.functional.pad(x, (0, padding)).contiguous()


def _near(x: Tensor) -> bool:
    """Whether 32 bits hold the distance between tokens."""
    return x.stride(1) * x.element_size() <= MOST_TOKEN_STRIDE


def _exponents(key_bias: Tensor | None) -> Tensor | None:
    """The additive key vector side by side, as exponents of 2: ``exponent`` of ``numbers.cuh``."""
    if key_bias is None:
        return None
    size = key_bias.abs()
    bent = (BEND + (size - BEND / LOG2_E) / 2).copysign(key_bias)
    return torch.where(size > BEND / LOG2_E, bent, key_bias * LOG2_E).contiguous()


def _bias(key_bias: Tensor | None) -> tuple[int | None, int]:
    """Pointer and batch stride of the additive key vector."""
    if key_bias is None:
        return None, 0
    return key_bias.data_ptr(), 0 if key_bias.shape[0] == 1 else key_bias.shape[1]
