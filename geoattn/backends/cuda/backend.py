"""The operator on tensor cores: plans of 64×64 tiles, kernels from the folder ``cuda``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs
from geoattn.backends.chunks import table_gradient
from geoattn.backends.cuda import arguments, variants
from geoattn.backends.cuda import device as cuda_device
from geoattn.backends.cuda.arguments import factor, related, view
from geoattn.backends.cuda.operands import KeyBias, exponents, key_bias_of, near, readable
from geoattn.backends.cuda.plans import DevicePlan, device_plan
from geoattn.backends.cuda.variants import Variant
from geoattn.neighborhoods.base import Neighborhood

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
        self, variant: Variant, blocks: int, block: arguments.Block, tensors: Sequence[Tensor]
    ) -> None:
        """Run ``blocks`` blocks of a kernel; ``tensors`` are those that its arguments point into."""
        cuda_device.launch(variant, blocks, block, tensors[0].device)

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
        q, k, v = readable(q), readable(k), readable(v)
        out = q.new_empty(batch, queries, heads, v.shape[-1])
        lse = q.new_empty(batch, queries, heads, dtype=torch.float32)
        bias, table = key_bias_of(key_bias, hood.key_grid, q.device), _table(pairs)
        block = arguments.Forward.of(
            *plan.block,
            *view(q),
            *view(k),
            *view(v),
            *view(out),
            *view(lse),
            *bias.numbers,
            batch,
            heads,
            heads // k.shape[2],
            q.shape[-1],
            v.shape[-1],
            *factor(scale),
            *related(plan.numbered, table),
        )
        shape = q.dtype, score_dim, value_dim, plan.masked, self.architecture(q.device)
        variant = variants.forward(*shape, plan.number_bits)
        tensors = (q, k, v, out, lse, *_tensors(bias.exponents, scale, table), *plan.tensors)
        self.launch(variant, plan.n_tiles * variant.parts * batch * heads, block, tensors)
        return Forward(_narrow(out, value_dim), lse)

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
        q, k, v, out, grad_out = (readable(x) for x in (q, k, v, out, grad_out))
        bias, table = key_bias_of(key_bias, hood.key_grid, q.device), _table(pairs)
        statistics = self._statistics(out, grad_out, lse, grad_lse)
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        more = _tensors(scale, table)

        def run(
            variant: Variant, plan: DevicePlan, row_heads: int, views: Sequence[Tensor], sums: Tensor | None
        ) -> None:
            block = arguments.Gradients.of(
                *plan.block,
                *(number for x in views for number in view(x)),
                statistics.data_ptr(),
                *bias.numbers,
                0 if sums is None else sums.data_ptr(),
                batch,
                heads,
                shared_by,
                queries,
                keys,
                q.shape[-1],
                v.shape[-1],
                *factor(scale),
                *related(plan.numbered, table),
            )
            tensors = (*views, statistics, *_tensors(bias.exponents, sums), *more, *plan.tensors)
            self.launch(variant, plan.n_tiles * variant.parts * batch * row_heads, block, tensors)

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
        dq, dk, dv = _narrow(dq, score_dim), _narrow(dk, score_dim), _narrow(dv, value_dim)
        return Gradients(dq, dk, dv, db, ds, dtable)

    def _table_gradient(
        self,
        variant: Variant,
        plan: DevicePlan,
        views: tuple[Tensor, Tensor, Tensor, Tensor],
        statistics: Tensor,
        bias: KeyBias,
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
            block = arguments.Table.of(
                *plan.block,
                *(number for x in views for number in view(x)),
                statistics.data_ptr(),
                *bias.numbers,
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
                *factor(scale),
                *related(plan.numbered, table),
            )
            tensors = (*views, statistics, sums, *_tensors(bias.exponents, scale, table), *plan.tensors)
            parts = variant.parts * (TILE // variant.columns)
            self.launch(variant, len(items) * parts * batch * heads, block, tensors)
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
        if grad_lse is not None and not near(grad_lse):
            grad_lse = grad_lse.contiguous()
        block = arguments.Delta.of(
            *view(out),
            *view(grad_out),
            *view(lse),
            *((0, 0, 0, 0) if grad_lse is None else view(grad_lse)),
            statistics.data_ptr(),
            rows,
            heads,
            queries,
            value_dim,
        )
        tensors = (out, grad_out, lse, statistics, *_tensors(grad_lse))
        self.launch(variants.delta(out.dtype), math.ceil(rows / 16), block, tensors)
        return statistics


def _table(pairs: Pairs | None) -> Tensor | None:
    """The table of a relation as exponents of 2, entries side by side."""
    return None if pairs is None else exponents(pairs.table).contiguous()


def _tensors(*arguments: float | Tensor | None) -> tuple[Tensor, ...]:
    return tuple(x for x in arguments if isinstance(x, Tensor))


def _narrow(x: Tensor, channels: int) -> Tensor:
    """The first channels, where kernels wrote more."""
    return x if x.shape[-1] == channels else x[..., :channels]


def sum_by_number(values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Sums ``[m, count]`` of the values ``[m, n]`` that have a number ``[n]`` in common, in a fixed order.

    Nothing is asked of the device, so that a graph can be captured meanwhile.
    """
    numbers, order = numbers.sort(stable=True)
    every = torch.arange(count + 1, device=numbers.device, dtype=numbers.dtype)
    lengths = torch.searchsorted(numbers, every).diff()
    runs = (lengths + RUN - 1) // RUN  # one after the other, and then these: many threads share a long sum
    ends = runs.cumsum(0)
    places = torch.arange(len(numbers) // RUN + count + 1, device=numbers.device)  # as many at most, and one
    some = lengths > 0
    last, rest = torch.where(some, ends - 1, len(places) - 1), torch.where(some, (lengths - 1) % RUN + 1, 0)
    of_runs = torch.where(places < ends[-1], RUN, 0).scatter(0, last, rest)
    values = values.index_select(1, order)
    for size in (of_runs, runs):
        each = size.expand(len(values), -1).contiguous()
        values = torch.segment_reduce(values, "sum", lengths=each, axis=1, unsafe=True, initial=0)
    return values
