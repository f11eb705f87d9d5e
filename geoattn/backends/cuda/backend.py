"""The operator on tensor cores: plans of 64×64 tiles, kernels from the folder ``cuda``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs
from geoattn.backends.chunks import table_gradient
from geoattn.backends.cuda import arguments, variants
from geoattn.backends.cuda import device as cuda_device
from geoattn.backends.cuda.arguments import Words, factor, related, view
from geoattn.backends.cuda.kept import KeptCalls
from geoattn.backends.cuda.launches import Launch, address, form_of
from geoattn.backends.cuda.operands import ALIGNMENT, KeyBias, exponents, lies_well, near, readable
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

    def launch(self, launch: Launch, words: Words[int], *tensors: Tensor | float | None) -> None:
        """Run a kernel with these arguments; ``tensors`` are those that they point into, beside a plan's."""
        cuda_device.launch(launch.variant, launch.blocks, words.buffer_info()[0], launch.device)

    def keep(
        self, q: Tensor, k: Tensor, v: Tensor, key_bias: Tensor | None, hood: Neighborhood, scale: float
    ) -> KeptCalls | None:
        if not all(map(lies_well, (q, k, v))):
            return None
        plan = device_plan(hood, q.device)
        bias = plan.key_bias(key_bias, hood.key_grid)
        batch, queries, heads, _ = q.shape
        out = q.new_empty(batch, queries, heads, v.shape[-1])
        lse = q.new_empty(batch, queries, heads, dtype=torch.float32)
        launch = self.forward_launch(plan, q, k, v, out, lse, bias, scale, None)
        return KeptCalls(self, plan, launch, bias, scale, queries)

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
        plan = device_plan(hood if pairs is None else pairs.relation, q.device)
        bias, table = plan.key_bias(key_bias, hood.key_grid), None if pairs is None else _table(pairs)
        form = (
            self.architecture(q.device), q.dtype,
            q.shape, q.stride(), k.shape, k.stride(), v.shape, v.stride(),
            bias.numbers[1], form_of(scale, table),
        )  # fmt: skip
        launches = plan.launches.get(form)
        places = q.data_ptr(), k.data_ptr(), v.data_ptr()
        if launches is None or (places[0] | places[1] | places[2]) % ALIGNMENT:
            near_q, near_k, near_v = readable(q), readable(k), readable(v)
            if near_q is not q or near_k is not k or near_v is not v:
                found = self.forward(near_q, near_k, near_v, key_bias, hood, scale, pairs)
                return Forward(_narrow(found.out, v.shape[-1]), found.lse)
        batch, queries, heads, _ = q.shape
        out = q.new_empty(batch, queries, heads, v.shape[-1])
        lse = q.new_empty(batch, queries, heads, dtype=torch.float32)
        if launches is None:
            made = self.forward_launch(plan, q, k, v, out, lse, bias, scale, table)
            launches = plan.launches.keep(form, (made,))
        (launch,) = launches
        addresses = *places, out.data_ptr(), lse.data_ptr(), bias.numbers[0], address(scale), address(table)
        self.launch(launch, launch.at(addresses), q, k, v, out, lse, bias.exponents, scale, table)
        return Forward(out, lse)

    def forward_launch(
        self,
        plan: DevicePlan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        bias: KeyBias,
        scale: float | Tensor,
        table: Tensor | None,
    ) -> Launch:
        (batch, _, heads, score_dim), value_dim = q.shape, v.shape[-1]
        shape = q.dtype, score_dim, value_dim, plan.masked, self.architecture(q.device)
        variant = variants.forward(*shape, plan.number_bits)
        return Launch.of(
            plan,
            variant,
            plan.n_tiles * variant.parts * batch * heads,
            arguments.Forward,
            *plan.block,
            *(number for x in (q, k, v, out, lse) for number in view(x)),
            *bias.numbers,
            batch,
            heads,
            heads // k.shape[2],
            score_dim,
            value_dim,
            *factor(scale),
            *related(plan.numbered, table),
        )

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
        of = hood if pairs is None else pairs.relation
        plan, transposed = device_plan(of, q.device), device_plan(of.transpose(), q.device)
        bias, table = plan.key_bias(key_bias, hood.key_grid), None if pairs is None else _table(pairs)
        form = (
            self.architecture(q.device), q.dtype,
            q.shape, q.stride(), k.shape, k.stride(), v.shape, v.stride(),
            out.stride(), grad_out.stride(), lse.stride(), None if grad_lse is None else grad_lse.stride(),
            bias.numbers[1], form_of(scale, table),
        )  # fmt: skip
        launches = plan.launches.get(form)
        together = q.data_ptr() | k.data_ptr() | v.data_ptr() | out.data_ptr() | grad_out.data_ptr()
        if launches is None or together % ALIGNMENT:
            as_given = grad_out, q, k, v, out
            do, near_q, near_k, near_v, near_out = near = [readable(x) for x in as_given]
            if any(x is not y for x, y in zip(near, as_given, strict=True)):
                found = self.backward(
                    do, grad_lse, near_q, near_k, near_v, key_bias, near_out, lse, hood, scale,
                    needs_key_bias, needs_scale, pairs, needs_table,
                )  # fmt: skip
                dq, dk = _narrow(found.q, q.shape[-1]), _narrow(found.k, k.shape[-1])
                return found._replace(q=dq, k=dk, v=_narrow(found.v, v.shape[-1]))
        (batch, queries, heads, score_dim), (_, keys, key_heads, value_dim) = q.shape, v.shape
        shared_by, shape = heads // key_heads, (q.dtype, score_dim, value_dim)
        statistics = q.new_empty(batch, heads, queries, 2, dtype=torch.float32)
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        more_addresses = address(scale), address(table)

        def run(launch: Launch, views: tuple[Tensor, ...], sums: Tensor | None) -> None:
            places = [x.data_ptr() for x in views]
            places += statistics.data_ptr(), bias.numbers[0], address(sums), *more_addresses
            self.launch(launch, launch.at(places), *views, statistics, bias.exponents, sums, scale, table)

        # queries have no gradient of a value: the place of that view is not written
        views = q, grad_out, k, v, dq, grad_out
        if launches is None:
            noted = self.statistics_launch(plan, out, grad_out, lse, grad_lse)
            of_queries = self.query_launch(plan, views, shared_by, bias, scale, table)
            launches = plan.launches.keep(form, (noted, of_queries))
        noted, of_queries = launches
        dlse = None if grad_lse is None else _nearer(grad_lse)
        seen = out, grad_out, lse, dlse, statistics
        self.launch(noted, noted.at([address(x) for x in seen]), *seen)
        parts = (of_queries.variant.slices, batch, heads, queries)
        ds = q.new_empty(parts, dtype=torch.float32) if needs_scale else None
        run(of_queries, views, ds)
        dtable = None
        if needs_table and pairs is not None and pairs.table.ndim == 4:  # each query has a table of its own
            dtable = table_gradient(grad_out, grad_lse, q, k, v, key_bias, hood, scale, pairs)
        elif needs_table and table is not None:
            variant = variants.table_gradient(*shape, plan.masked, form[0], plan.number_bits)
            dtable = self._table_gradient(variant, plan, (q, grad_out, k, v), statistics, bias, table, scale)
        apart = shared_by > 1 and isinstance(scale, Tensor)
        row_heads = key_heads
        if apart:  # rows of keys know one scale: each query head gets keys of its own
            k, v = (x.repeat_interleave(shared_by, 2) for x in (k, v))
            row_heads, shared_by = heads, 1
        dk = torch.empty_like(k, memory_format=torch.contiguous_format)
        dv = torch.empty_like(v, memory_format=torch.contiguous_format)
        db = q.new_empty(batch, row_heads, keys, dtype=torch.float32) if needs_key_bias else None
        views = k, v, q, grad_out, dk, dv
        of_keys = transposed.launches.get((form,))
        if of_keys is None:
            of_keys = self.key_launches(transposed, views, shared_by, bias, scale, table)
            transposed.launches.keep((form,), of_keys)
        for launch in of_keys:
            run(launch, views, db)
        if apart:
            dk, dv = (
                x.reshape(batch, keys, key_heads, heads // key_heads, -1).float().sum(3).to(x.dtype)
                for x in (dk, dv)
            )
        if db is not None and key_bias is not None:
            db = db.sum((0, 1)).unsqueeze(0) if key_bias.shape[0] == 1 else db.sum(1)
        if ds is not None and isinstance(scale, Tensor):
            ds = ds.sum((0, 1, 3)).unsqueeze(0) if scale.shape[0] == 1 else ds.sum((0, 3))
        return Gradients(dq, dk, dv, db, ds, dtable)

    @staticmethod
    def statistics_launch(
        plan: DevicePlan, out: Tensor, grad_out: Tensor, lse: Tensor, grad_lse: Tensor | None
    ) -> Launch:
        """What finds −lse · log₂ e and delta of each query, ``[B, H, Nq, 2]``."""
        batch, queries, heads, value_dim = out.shape
        rows = batch * heads * queries
        return Launch.of(
            plan,
            variants.delta(out.dtype),
            math.ceil(rows / 16),
            arguments.Delta,
            *(number for x in (out, grad_out, lse) for number in view(x)),
            *((0, 0, 0, 0) if grad_lse is None else view(_nearer(grad_lse))),
            0,
            rows,
            heads,
            queries,
            value_dim,
        )

    def query_launch(
        self,
        plan: DevicePlan,
        views: tuple[Tensor, ...],
        shared_by: int,
        bias: KeyBias,
        scale: float | Tensor,
        table: Tensor | None,
    ) -> Launch:
        """The gradient of queries; ``views`` are q, grad_out, k, v, dq and one that is not used."""
        q, _, _, v, *_ = views
        shape = q.dtype, q.shape[3], v.shape[3]
        variant = variants.query_gradient(*shape, plan.masked, self.architecture(q.device), plan.number_bits)
        return _gradients_launch(
            plan, variant, views, (q.shape[1], v.shape[1]), shared_by, bias, scale, table
        )

    def key_launches(
        self,
        transposed: DevicePlan,
        views: tuple[Tensor, ...],
        shared_by: int,
        bias: KeyBias,
        scale: float | Tensor,
        table: Tensor | None,
    ) -> tuple[Launch, ...]:
        """The gradients of keys and values; ``views`` are k, v, q, grad_out, dk and dv."""
        _, v, q, *_ = views
        shape = q.dtype, q.shape[3], v.shape[3]
        known = variants.key_gradients(
            *shape, transposed.masked, self.architecture(q.device), transposed.number_bits
        )
        tokens = q.shape[1], v.shape[1]
        return tuple(
            _gradients_launch(transposed, variant, views, tokens, shared_by, bias, scale, table)
            for variant in known
        )

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
            parts = variant.parts * (TILE // variant.columns)
            launch = Launch.of(
                plan,
                variant,
                len(items) * parts * batch * heads,
                arguments.Table,
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
            self.launch(launch, launch.words, *views, statistics, sums, bias.exponents, scale, table)
            numbers = plan.numbers.flatten(1).index_select(0, items[:, 3].long()).flatten()
            if plan.number_bits == 16:
                numbers = numbers.int() & 0xFFFF
            found = sum_by_number(sums.flatten(1), numbers, table.shape[-1]).reshape(batch, heads, -1)
            total += found.sum(0, keepdim=True) if table.shape[0] == 1 else found
        return total


def _gradients_launch(
    plan: DevicePlan,
    variant: Variant,
    views: tuple[Tensor, ...],
    tokens: tuple[int, int],
    shared_by: int,
    bias: KeyBias,
    scale: float | Tensor,
    table: Tensor | None,
) -> Launch:
    """Gradients of the rows of a plan; ``views`` are in the order of :class:`arguments.Gradients`.

    ``tokens`` are those of queries and keys, and ``shared_by`` query heads share a key head.
    """
    rows, row_values, columns, *_ = views
    batch, row_heads = rows.shape[0], rows.shape[2]
    return Launch.of(
        plan,
        variant,
        plan.n_tiles * variant.parts * batch * row_heads,
        arguments.Gradients,
        *plan.block,
        *(number for x in views for number in view(x)),
        0,
        *bias.numbers,
        0,
        batch,
        max(row_heads, columns.shape[2]),
        shared_by,
        *tokens,
        rows.shape[3],
        row_values.shape[3],
        *factor(scale),
        *related(plan.numbered, table),
    )


def _nearer(x: Tensor) -> Tensor:
    """The tensor itself if its tokens are near each other, else a copy."""
    return x if near(x) else x.contiguous()


def _table(pairs: Pairs) -> Tensor:
    """The table of a relation as exponents of 2, entries side by side."""
    return exponents(pairs.table).contiguous()


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
