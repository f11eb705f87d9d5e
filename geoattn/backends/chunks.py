"""A neighborhood in dense chunks: what the reference computes on, and second derivatives for every backend.

Queries are taken in chunks that lie together. A chunk and the union of its keys form one small
dense problem with a mask, so that the work is matrix products and the memory is that of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from geoattn._lru import BoundedCache
from geoattn.backends.base import Pairs, accumulation_dtype
from geoattn.grids.orders import order
from geoattn.neighborhoods.base import Neighborhood
from geoattn.neighborhoods.rows import Index
from geoattn.relations.base import Relation

#: queries per chunk; chunks that see more than MAX_PAIRS pairs are halved
CHUNK_QUERIES = 64
MAX_PAIRS = 2**22
#: query–key pairs of all heads and batch entries that are held at once
MAX_SCORES = 2**25


class Chunk(NamedTuple):
    """Some queries ``[n]``, all keys that any of them sees ``[m]``, and who does not see whom."""

    queries: Tensor
    keys: Tensor
    #: True where the query does not see the key ``[n, m]``; None where all see all
    hidden: Tensor | None
    #: number of each pair in a relation ``[n, m]``, 0 where hidden; None without one
    numbers: Tensor | None


_chunks: BoundedCache[tuple[str, str, torch.device], list[Chunk]] = BoundedCache(max_bytes=2**29)


def second_derivatives(
    cotangents: Sequence[Tensor | None],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    hood: Neighborhood,
    scale: float | Tensor,
    pairs: Pairs | None = None,
) -> list[Tensor | None]:
    """Gradients of ``Σ cotangent · gradient`` for those of q, k, v, the key vector, scales and a table.

    Returns one for each of grad_out, grad_lse, q, k, v, key_bias, scale and the table. Each chunk is
    differentiated twice by autograd on its own. With gradients enabled the result is differentiable again.
    """
    scales = scale if isinstance(scale, Tensor) else None
    table = pairs.table if pairs is not None else None
    operands = (grad_out, grad_lse, q, k, v, key_bias, scales, table)
    dtype, kv_heads = accumulation_dtype(q.dtype), k.shape[2]
    totals = [None if x is None else x.new_zeros(x.shape, dtype=dtype) for x in operands]
    keep = torch.is_grad_enabled()
    for chunk, part in work(hood, q, pairs):

        def of_queries(x: Tensor, chunk: Chunk = chunk, part: slice = part) -> Tensor:
            return group(x[part].index_select(1, chunk.queries), kv_heads, dtype)

        def of_keys(x: Tensor, chunk: Chunk = chunk, part: slice = part) -> Tensor:
            return x[part].index_select(1, chunk.keys).to(dtype)

        def of_bias(x: Tensor, chunk: Chunk = chunk, part: slice = part) -> Tensor:
            return (x if x.shape[0] == 1 else x[part]).index_select(1, chunk.keys)

        def of_scale(x: Tensor, part: slice = part) -> Tensor:
            return (x if x.shape[0] == 1 else x[part]).clone()

        def of_table(x: Tensor, chunk: Chunk = chunk, part: slice = part) -> Tensor:
            return table_part(x, chunk, part).clone()

        def of_lse(x: Tensor, take: Callable[[Tensor], Tensor] = of_queries) -> Tensor:
            return take(x.unsqueeze(-1))

        takes: tuple[Callable[[Tensor], Tensor], ...] = (
            of_queries,
            of_lse,
            of_queries,
            of_keys,
            of_keys,
            of_bias,
            of_scale,
            of_table,
        )
        with torch.enable_grad():
            # fresh tensors of the chunk: a gradient for one never runs through the history of another
            parts = [None if x is None else take(x) for x, take in zip(operands, takes, strict=True)]
            parts = [x if x is None or x.requires_grad else x.detach().requires_grad_() for x in parts]
            do, dlse, q_part, k_part, v_part, b_part, s_part, t_part = parts
            assert do is not None
            assert q_part is not None
            assert k_part is not None
            assert v_part is not None
            factor = of_heads(scale if s_part is None else s_part, slice(None), kv_heads)
            out, lse = attend(
                q_part,
                k_part.transpose(1, 2),
                v_part.transpose(1, 2),
                b_part,
                chunk.hidden,
                factor,
                None if t_part is None else looked_up(t_part, chunk, kv_heads),
            )
            wanted = [
                (x, take(c))
                for x, c, take in zip(parts[2:], cotangents, takes[2:], strict=False)
                if x is not None and c is not None
            ]
            outputs, upstream = [out], [do]
            if dlse is not None:
                outputs, upstream = [out, lse.unsqueeze(-1)], [do, dlse]
            first = torch.autograd.grad(outputs, [x for x, _ in wanted], upstream, create_graph=True)
            second = torch.autograd.grad(
                first,
                [x for x in parts if x is not None],
                [c for _, c in wanted],
                create_graph=keep,
                allow_unused=True,
            )
        remaining = iter(second)
        for place, total in enumerate(totals):
            change = None if total is None else next(remaining)
            if total is None or change is None:
                continue
            if place == 6 or (place == 7 and total.ndim == 3):
                rows = total if total.shape[0] == 1 else total[part]
                rows += change
                continue
            if place == 5:
                rows, index = (total if total.shape[0] == 1 else total[part]), chunk.keys
            else:
                rows, index = total[part], chunk.keys if place in (3, 4) else chunk.queries
            if place in (0, 2):
                change = ungroup(change)
            elif place == 1:
                change = ungroup(change).squeeze(-1)
            rows.index_add_(1, index, change)
    return [None if t is None or x is None else t.to(x.dtype) for t, x in zip(totals, operands, strict=True)]


def table_gradient(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_bias: Tensor | None,
    hood: Neighborhood,
    scale: float | Tensor,
    pairs: Pairs,
) -> Tensor:
    """The gradient of a relation's table alone, each sum in one fixed order: for kernels that have none."""
    total, kv_heads = torch.zeros_like(pairs.table), k.shape[2]
    for chunk, part in work(hood, q, pairs):
        q_chunk, k_chunk, v_chunk, bias = gather(chunk, q[part], k[part], v[part], key_bias, part)
        do, dlse = gather_gradients(chunk, grad_out, grad_lse, part, kv_heads)
        pair_bias = bias_of_pairs(pairs, chunk, part, kv_heads)
        score = scores(q_chunk, k_chunk, bias, chunk.hidden, of_heads(scale, part, kv_heads), pair_bias)
        add_by_number(total, score_gradient(score, v_chunk, do, dlse)[1], chunk, part)
    return total


def of_heads(scale: float | Tensor, part: slice, kv_heads: int) -> float | Tensor:
    """A number, or a part of the batch's ``[B or 1, H]`` as ``[B or 1, Hkv, H / Hkv, 1, 1]``."""
    if not isinstance(scale, Tensor):
        return scale
    rows = scale if scale.shape[0] == 1 else scale[part]
    return rows.reshape(len(rows), kv_heads, -1, 1, 1)


def table_part(table: Tensor, chunk: Chunk, part: slice) -> Tensor:
    """A part of the batch of a relation's table, and the queries of the chunk where each has its own."""
    rows = table if table.shape[0] == 1 else table[part]
    return rows if table.ndim == 3 else rows.index_select(1, chunk.queries)


def bias_of_pairs(pairs: Pairs | None, chunk: Chunk, part: slice, kv_heads: int) -> Tensor | None:
    """What a relation's table adds to the scores of a chunk, ``[B or 1, Hkv, G, n, m]``."""
    return None if pairs is None else looked_up(table_part(pairs.table, chunk, part), chunk, kv_heads)


def looked_up(table: Tensor, chunk: Chunk, kv_heads: int) -> Tensor:
    """The bias of each pair, ``[B or 1, Hkv, G, n, m]``, from a :func:`table_part`."""
    assert chunk.numbers is not None
    if table.ndim == 3:
        found = table.index_select(-1, chunk.numbers.flatten())
    else:
        found = table.take_along_dim(chunk.numbers[None, :, None], -1).transpose(1, 2)
    return found.reshape(len(table), kv_heads, -1, *chunk.numbers.shape)


def add_by_number(total: Tensor, ds: Tensor, chunk: Chunk, part: slice) -> None:
    """Add gradients of scores ``[B, Hkv, G, n, m]`` to those of a table, in one fixed order."""
    assert chunk.numbers is not None
    (n, _), count, of_queries = chunk.numbers.shape, total.shape[-1], total.ndim == 4
    numbers, each = chunk.numbers, ds.flatten(1, 2)
    if of_queries:
        numbers = numbers + count * torch.arange(n, device=numbers.device)[:, None]
    seen = torch.ones_like(numbers, dtype=torch.bool) if chunk.hidden is None else ~chunk.hidden
    numbers, each = numbers[seen], each[..., seen].movedim(-1, 0)
    lengths = numbers.bincount(minlength=n * count if of_queries else count)
    by_number = each[numbers.argsort(stable=True)]
    sums = torch.segment_reduce(by_number, "sum", lengths=lengths, unsafe=True, initial=0)  # [numbers, B, H]
    if of_queries:
        total[part].index_copy_(1, chunk.queries, sums.reshape(n, count, *sums.shape[1:]).permute(2, 0, 3, 1))
        return
    rows = total if total.shape[0] == 1 else total[part]
    rows += sums.permute(1, 2, 0).sum(0, keepdim=True) if total.shape[0] == 1 else sums.permute(1, 2, 0)


def scores(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    scale: float | Tensor,
    pair_bias: Tensor | None = None,
) -> Tensor:
    """``scale · q·k + bias + pair_bias``, −inf where hidden: ``[B, Hkv, G, n, m]``."""
    score = (q * scale) @ k.mT.unsqueeze(2)
    # only a bias hides; a product that is −∞ is not a number
    score = score.masked_fill(score == float("-inf"), float("nan"))
    if bias is not None:
        score = score + bias[:, None, None, None, :]
    if pair_bias is not None:
        score = score + pair_bias
    return score if hidden is None else score.masked_fill(hidden, float("-inf"))


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    hidden: Tensor | None,
    scale: float | Tensor,
    pair_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of one chunk, differentiable to any order.

    q ``[B, Hkv, G, n, D]``, k ``[B, Hkv, m, D]``, v ``[B, Hkv, m, Dv]``, bias ``[B or 1, m]``,
    pair_bias ``[B or 1, Hkv, G, n, m]``; returns out ``[B, Hkv, G, n, Dv]`` and lse ``[B, Hkv, G, n]``.
    """
    p, total, top, dead = softmax(scores(q, k, bias, hidden, scale, pair_bias))
    out = p @ v.unsqueeze(2) / total
    lse = (total.log() + top).masked_fill(dead, float("-inf"))
    return out, lse.squeeze(-1)


def score_gradient(score: Tensor, v: Tensor, do: Tensor, dlse: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights and the gradients of scores, ``[B, Hkv, G, n, m]``, by :func:`gather_gradients`."""
    # not by the lse: beside huge biases it has lost its last digits
    p, total, _, dead = softmax(score)
    p /= total
    dp = do @ v.mT.unsqueeze(2)
    delta = (p * dp).sum(-1, keepdim=True)
    if dlse is not None:
        delta = delta - dlse.masked_fill(dead, 0.0)
    return p, dp.sub_(delta).mul_(p)


def softmax(score: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, their sum, the largest score that was taken from all of them, and where no key is visible."""
    top = score.detach().amax(-1, keepdim=True)
    dead = top == float("-inf")
    top = top.masked_fill(dead, 0.0)
    p = (score - top).exp()
    return p, p.sum(-1, keepdim=True).masked_fill(dead, 1.0), top, dead


def group(x: Tensor, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """``[B, n, H, D]`` → ``[B, Hkv, H / Hkv, n, D]``: query heads beside the key head they share."""
    batch, tokens, heads, dim = x.shape
    return x.to(dtype).reshape(batch, tokens, kv_heads, heads // kv_heads, dim).permute(0, 2, 3, 1, 4)


def ungroup(x: Tensor) -> Tensor:
    """``[B, Hkv, G, n, D]`` → ``[B, n, H, D]``."""
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)


def gather(
    chunk: Chunk, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, part: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The chunk's rows of every operand, in the accumulation dtype and in the layout of :func:`attend`."""
    dtype = accumulation_dtype(q.dtype)
    k_chunk, v_chunk = (x.index_select(1, chunk.keys).to(dtype).transpose(1, 2) for x in (k, v))
    if bias is not None:
        bias = (bias if bias.shape[0] == 1 else bias[part]).index_select(1, chunk.keys)
    return group(q.index_select(1, chunk.queries), k.shape[2], dtype), k_chunk, v_chunk, bias


def gather_gradients(
    chunk: Chunk, grad_out: Tensor, grad_lse: Tensor | None, part: slice, kv_heads: int
) -> tuple[Tensor, Tensor | None]:
    """The chunk's rows of the gradients of out and lse, ``[B, Hkv, G, n, Dv]`` and ``[B, Hkv, G, n, 1]``."""
    dtype = accumulation_dtype(grad_out.dtype)
    rows = (grad_out, None if grad_lse is None else grad_lse.unsqueeze(-1))
    do, dlse = (
        None if x is None else group(x[part].index_select(1, chunk.queries), kv_heads, dtype) for x in rows
    )
    assert do is not None
    return do, dlse


def work(hood: Neighborhood, q: Tensor, pairs: Pairs | None = None) -> Iterator[tuple[Chunk, slice]]:
    """Chunks of the neighborhood × parts of the batch, each within the memory budget."""
    batch, _, heads, _ = q.shape
    for chunk in chunks(hood, q.device, pairs.relation if pairs is not None else None):
        held = max(1, len(chunk.queries) * len(chunk.keys) * heads)
        step = max(1, MAX_SCORES // held)
        for start in range(0, batch, step):
            yield chunk, slice(start, min(start + step, batch))


def chunks(hood: Neighborhood, device: torch.device, relation: Relation | None = None) -> Iterator[Chunk]:
    """The chunks of a neighborhood, with the numbers of a relation.

    Those of recent calls are kept while they are small enough.
    """
    key = (hood.identity, relation.identity if relation is not None else "", device)
    kept = _chunks.get(key)
    if kept is not None:
        yield from kept
        return
    built: list[Chunk] = []
    size = 0
    along = order(hood.query_grid).astype(np.int64)  # neighbors on the curve share most of their keys
    for start in range(0, len(along), CHUNK_QUERIES):
        for chunk in _build(hood, along[start : start + CHUNK_QUERIES], device, relation):
            size += sum(x.numel() * x.element_size() for x in chunk if x is not None)
            if size <= _chunks.max_bytes:
                built.append(chunk)
            else:
                built.clear()  # too large to keep: chunks are built anew at every call
            yield chunk
    _chunks.put(key, built, size)


def _build(
    hood: Neighborhood, queries: Index, device: torch.device, relation: Relation | None
) -> Iterator[Chunk]:
    rows = hood.rows(queries)
    keys, column = np.unique(rows.indices, return_inverse=True)
    if len(queries) > 1 and len(queries) * len(keys) > MAX_PAIRS:
        half = len(queries) // 2
        yield from _build(hood, queries[:half], device, relation)
        yield from _build(hood, queries[half:], device, relation)
    elif len(keys):
        row = np.repeat(np.arange(len(queries)), np.diff(rows.indptr))
        hidden = np.ones((len(queries), len(keys)), dtype=bool)
        hidden[row, column] = False
        numbers = None
        if relation is not None:
            numbers = torch.zeros(hidden.shape, dtype=torch.int64)
            numbers[row, column] = torch.as_tensor(relation.numbers_of(queries, rows).astype(np.int64))
            numbers = numbers.to(device)
        yield Chunk(
            torch.as_tensor(queries, device=device),
            torch.as_tensor(keys.astype(np.int64), device=device),
            torch.as_tensor(hidden, device=device) if hidden.any() else None,
            numbers,
        )
