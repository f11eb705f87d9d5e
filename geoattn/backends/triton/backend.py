"""The operator on kernels in Triton: plans in blocks, matrix units of any GPU."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from geoattn.backends.base import Forward, Gradients, Pairs
from geoattn.backends.chunks import table_gradient
from geoattn.backends.cuda.backend import sum_by_number
from geoattn.backends.triton import variants
from geoattn.backends.triton.plans import DevicePlan, device_items, device_plan
from geoattn.backends.triton.variants import Shape, Variant
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans.blocks import SIDE

LOG2_E = math.log2(math.e)
#: exponents of 2 beyond this are bent back: see ``exponent`` in ``walk.py``
BEND = 2.0**125
#: of NVIDIA's devices: products of bfloat16 and tf32 are there since this capability
OLDEST = (8, 0)
#: the kernels take tuples of arguments by their names
OLDEST_TRITON = (3, 6)
#: gradients of scores that are held at once, summed over the blocks that share a list
MOST_SUMS = 2**26


class Triton:
    """Block-sparse attention with running softmax, float32 inputs in split precision.

    A relation's table gets its gradient without atomics; one with entries for each query gets it from dense
    chunks, as in the reference, which is slow.

    What is not a number reaches the queries that see it. In ``v``, in infinite numbers of ``k``, and going
    backward it may spread to other queries of the same block of 128, and to the keys of their tiles, and no
    further.
    """

    name = "triton"
    knows_relations = True
    device_type = "cuda"

    def unavailable(self) -> str | None:
        if find_spec("triton") is None:
            return "triton is not installed; builds of torch for CUDA and ROCm bring it"
        if not torch.cuda.is_available():
            return "it runs on GPUs of NVIDIA and AMD, and torch finds none"
        installed = import_module("triton").__version__
        if tuple(map(int, installed.split(".")[:2])) < OLDEST_TRITON:
            return f"triton {installed} is older than {_dot(OLDEST_TRITON)}, which torch 2.11 brings"
        return None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, hood: Neighborhood) -> str | None:
        if q.device.type != self.device_type:
            return f"tensors are on {q.device}, not on a {self.device_type} device"
        if q.dtype not in variants.DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in variants.DTYPES)
            return f"dtype {str(q.dtype).removeprefix('torch.')} is not among {known}"
        widest = max(q.shape[-1], v.shape[-1])
        if widest > variants.MOST_CHANNELS:
            return f"head dim {widest} is above {variants.MOST_CHANNELS}"
        if q.device.type == "cuda" and torch.version.hip is None:
            capability = torch.cuda.get_device_capability(q.device)
            if capability < OLDEST:
                return f"{q.device} has capability {_dot(capability)}, older than {_dot(OLDEST)}"
        return None

    def architecture(self, device: torch.device) -> str:
        """What variants are chosen for, such as "sm_90" or "gfx942"."""
        if torch.version.hip is not None:
            name: str = torch.cuda.get_device_properties(device).gcnArchName
            return name.split(":")[0]
        return "sm_{}{}".format(*torch.cuda.get_device_capability(device))

    def launch(
        self, variant: Variant, programs: int, arguments: tuple[Any, ...], device: torch.device
    ) -> None:
        """Run some programs of a kernel on the device's current stream."""
        with torch.cuda.device(device):
            kernel(variant.kernel)[(programs,)](*arguments, **variant.constants, **variant.options)

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
        value_dim, shared = v.shape[-1], heads // k.shape[2]
        out = q.new_empty(batch, queries, heads, value_dim)
        lse = q.new_empty(batch, queries, heads, dtype=torch.float32)
        architecture, related = self.architecture(q.device), pairs is not None
        variant = variants.forward(Shape(q.dtype, score_dim, value_dim, shared, architecture, related))
        of = hood if pairs is None else pairs.relation
        plan = device_plan(of, variant.constants["TILES"], q.device)
        views = (view(x) for x in (q, k, v, out))
        arguments = (*views, lse, *additive(key_bias, scale, pairs), *walked(plan), heads, queries)
        programs = plan.blocks * variant.slices * batch * heads // variant.constants["PACK"]
        self.launch(variant.walking(plan.gathered), programs, arguments, q.device)
        return Forward(out, lse)

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
        shared, architecture = heads // key_heads, self.architecture(q.device)
        shape = Shape(q.dtype, score_dim, value_dim, shared, architecture, pairs is not None)
        rows = batch * queries * heads
        notes = q.new_empty(2, batch, queries, heads, dtype=torch.float32)
        lse, grad_lse = lse.contiguous(), None if grad_lse is None else grad_lse.contiguous()
        noted = variants.note(value_dim)
        self.launch(
            noted,
            math.ceil(rows / noted.constants["N"]),
            (view(out), view(grad_out), lse, grad_lse, notes, rows, queries, heads),
            q.device,
        )
        more = additive(key_bias, scale, pairs)
        of = hood if pairs is None else pairs.relation
        dq, dk, dv = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        ds = db = None

        variant = variants.query_gradient(shape)
        plan = device_plan(of, variant.constants["TILES"], q.device)
        if needs_scale:
            ds = q.new_empty(variant.slices, batch, queries, heads, dtype=torch.float32)
        views = (view(x) for x in (q, grad_out, k, v, dq))
        programs = plan.blocks * variant.slices * batch * heads // variant.constants["PACK"]
        arguments = (*views, ds, notes, *more, *walked(plan), heads, queries, rows)
        self.launch(variant.walking(plan.gathered), programs, arguments, q.device)

        if needs_key_bias:
            db = q.new_empty(batch, key_heads, keys, dtype=torch.float32)
        for variant in variants.key_gradients(shape):
            plan = device_plan(of.transpose(), variant.constants["TILES"], q.device)
            views = (view(x) for x in (k, v, q, grad_out, dk, dv))
            arguments = (*views, db, notes, *more, *walked(plan), key_heads, keys, queries, rows)
            programs = plan.blocks * variant.slices * batch * key_heads
            self.launch(variant.walking(plan.gathered), programs, arguments, q.device)
        if db is not None and key_bias is not None:
            db = db.sum((0, 1)).unsqueeze(0) if key_bias.shape[0] == 1 else db.sum(1)
        if ds is not None and isinstance(scale, Tensor):
            ds = ds.sum((0, 1, 2)).unsqueeze(0) if scale.shape[0] == 1 else ds.sum((0, 2))
        dtable = None
        if needs_table and pairs is not None and pairs.table.ndim == 4:  # each query has a table of its own
            given = grad_out, grad_lse, q, k, v, key_bias, hood, scale
            dtable = table_gradient(*given, pairs)
        elif needs_table and pairs is not None:
            dtable = self._table_gradient(shape, (q, grad_out, k, v), notes, more, pairs)
        return Gradients(dq, dk, dv, db, ds, dtable)

    def _table_gradient(
        self, shape: Shape, operands: tuple[Tensor, ...], notes: Tensor, more: tuple[Any, ...], pairs: Pairs
    ) -> Tensor:
        """The gradient of a table ``[B or 1, H, count]``; ``operands`` are q, grad_out, k and v."""
        q = operands[0]
        batch, queries, heads, _ = q.shape
        plan, of_relation = device_plan(pairs.relation, 1, q.device), device_items(pairs.relation, q.device)
        variant = variants.table_gradient(shape)
        total = torch.zeros_like(pairs.table)
        at_once = max(1, MOST_SUMS // (batch * heads * SIDE**2))
        for items in torch.split(of_relation.items, at_once):
            sums = q.new_empty(batch * heads, len(items), SIDE**2, dtype=torch.float32)
            arrays, _, ring = walked(plan)
            numbers = ring, heads, queries, batch * queries * heads, len(items)
            views = (view(x) for x in operands)
            arguments = (*views, sums, items, of_relation.blocks, notes, *more, arrays, *numbers)
            parts = SIDE // variant.constants["N"]
            self.launch(variant, len(items) * parts * batch * heads, arguments, q.device)
            of_pairs = plan.numbers.flatten(1).index_select(0, items[:, 3].long()).flatten()
            found = sum_by_number(sums.flatten(1), of_pairs, total.shape[-1]).reshape(batch, heads, -1)
            total += found.sum(0, keepdim=True) if total.shape[0] == 1 else found
        return total


@cache
def kernel(name: str) -> Any:
    """A kernel by its name; triton is imported with the first."""
    from geoattn.backends.triton import forward, gradients

    return getattr(forward, name, None) or getattr(gradients, name)


def view(x: Tensor) -> Any:
    """A tensor ``[batch, token, head, channel]`` as kernels see it."""
    from geoattn.backends.triton.walk import View

    return View(x, *x.stride())


def walked(plan: DevicePlan) -> tuple[Any, int, int]:
    """A plan as kernels see it, its blocks, and the length of its rings."""
    from geoattn.backends.triton.walk import Plan

    *arrays, blocks, ring, _ = plan
    return Plan(*arrays), blocks, ring


def additive(
    key_bias: Tensor | None, scale: float | Tensor, pairs: Pairs | None
) -> tuple[Any, Any, float, Any]:
    """The additive key vector, scales of heads or the one scale, and the table of a relation."""
    from geoattn.backends.triton.walk import Table, Vector

    bias, scales, table = Vector(None, 0), Vector(None, 0), Table(None, 0, 0, 0)
    if key_bias is not None:
        bias = Vector(exponents(key_bias), 0 if key_bias.shape[0] == 1 else key_bias.shape[1])
    if isinstance(scale, Tensor):
        scales = Vector(scale.contiguous(), 0 if scale.shape[0] == 1 else scale.shape[1])
        scale = 1.0
    if pairs is not None and pairs.relation.count > 0:  # else there are no pairs
        data = exponents(pairs.table)
        of_batch = 0 if data.shape[0] == 1 else data.stride(0)
        table = Table(data, of_batch, data.stride(1) if data.ndim == 4 else 0, data.stride(-2))
    return bias, scales, scale, table


def exponents(x: Tensor) -> Tensor:
    """log₂ e times the numbers, bent so that finite ones stay finite."""
    size = x.abs()
    bent = (BEND + (size - BEND / LOG2_E) / 2).copysign(x)
    return torch.where(size > BEND / LOG2_E, bent, x * LOG2_E).contiguous()


def _dot(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))
