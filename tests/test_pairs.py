"""A bias for every pair: the operator with a relation and its table."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.testing.problems import cases, check, refusal

GRID = ga.grids.gaussian(4, 8)
DISC = ga.geodesic(GRID, radius=50.0)
BACKENDS = ("reference", "cpu")


def relation_on(hood, count=5, seed=0):
    numbers = np.random.default_rng(seed).integers(count, size=int(hood.counts.sum()))
    numbers[:count] = np.arange(count)
    return ga.relations.labels(hood, numbers)


def operands(hood, batch=2, heads=4, kv_heads=2, dim=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, *grid.shape, h, dim, generator=generator, dtype=dtype)
        for grid, h in ((hood.query_grid, heads), (hood.key_grid, kv_heads), (hood.key_grid, kv_heads))
    )


def table_for(relation, shape, heads=4, dtype=torch.float64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, heads, relation.count, generator=generator, dtype=dtype)


SHAPES = {"shared": (), "by entry": (2,), "by query": (2, 4, 8)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(4))
def test_the_matrix_agrees_with_the_oracle(backend, seed):
    for case in cases(100 + seed, 8, relations=1.0):
        if refusal(case, backend) is None:
            check(case, backend)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_second_derivatives_agree_with_finite_differences(shape):
    relation = relation_on(DISC)
    q, k, v = operands(DISC)
    table = table_for(relation, shape)
    leaves = [x.requires_grad_() for x in (q, k, v, table)]

    def small(table, q):
        out, lse = ga.attention(
            q, k, v, DISC, relation=relation, relation_bias=table, return_lse=True, backend="reference"
        )
        return out[:, 0, :2], lse[:, 0, :2]

    assert torch.autograd.gradcheck(small, (leaves[3], leaves[0]), fast_mode=True)
    assert torch.autograd.gradgradcheck(small, (leaves[3], leaves[0]), fast_mode=True)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_transforms_of_torch_func_know_the_table(shape):
    relation = relation_on(DISC)
    q, k, v = operands(DISC)
    table = table_for(relation, shape)

    def loss(table, q):
        return ga.attention(q, k, v, DISC, relation=relation, relation_bias=table).square().sum()

    found = torch.func.grad(loss)(table, q)
    leaf = table.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, q), leaf)
    torch.testing.assert_close(found, expected)
    several = torch.stack([table, 2 * table, -table])
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))(several, q)
    for each, one in zip(mapped, several, strict=True):
        torch.testing.assert_close(each, torch.func.grad(loss)(one, q))
    # per-sample gradients of a shared table
    queries = torch.stack([q, 3 * q])
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(table, queries)
    for each, one in zip(mapped, queries, strict=True):
        torch.testing.assert_close(each, torch.func.grad(loss)(table, one))
    twice = torch.func.grad(lambda t: torch.func.grad(loss)(t, q).square().sum())(table)
    leaf = table.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(leaf, q), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), leaf)
    torch.testing.assert_close(twice, second)


def test_compiled_calls_give_the_same():
    relation = relation_on(DISC)
    q, k, v = (x.requires_grad_() for x in operands(DISC, dtype=torch.float32))
    table = table_for(relation, (), dtype=torch.float32).requires_grad_()

    def loss(q, k, v, table):
        return ga.attention(q, k, v, DISC, relation=relation, relation_bias=table).square().sum()

    expected = torch.autograd.grad(loss(q, k, v, table), (q, k, v, table))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(q, k, v, table), (q, k, v, table))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_ops_are_what_torch_expects_of_ops(shape):
    relation = relation_on(DISC)
    q, k, v = (x.flatten(1, -3).requires_grad_() for x in operands(DISC, dtype=torch.float32))
    table = table_for(relation, shape, dtype=torch.float32)
    table = (table[None] if table.ndim == 2 else table.flatten(1, -3) if table.ndim > 3 else table).detach()
    table.requires_grad_()
    arguments = q, k, v, None, None, table, None, DISC.identity, relation.identity, 0.5, True, None
    torch.library.opcheck(torch.ops.geoattn.attention.default, arguments)
    out, lse = (x.detach() for x in torch.ops.geoattn.attention(*arguments))
    tensors = (None if x is None else x.detach() for x in arguments[:7])
    torch.library.opcheck(
        torch.ops.geoattn.attention_backward.default,
        (torch.ones_like(out), None, *tensors, out, lse, *arguments[7:], [False, False, True]),
    )


def test_an_exported_program_carries_its_relation(tmp_path):
    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relation = relation_on(DISC)
            self.table = torch.nn.Parameter(table_for(self.relation, (), dtype=torch.float32))

        def forward(self, q, k, v):
            return ga.attention(q, k, v, DISC, relation=self.relation, relation_bias=self.table)

    arguments = operands(DISC, dtype=torch.float32)
    model = Biased()
    torch.export.save(torch.export.export(model, arguments), tmp_path / "program.pt2")
    torch.save([*arguments, model(*arguments)], tmp_path / "values.pt")
    program = f"""
import torch, geoattn
*arguments, expected = torch.load({str(tmp_path / "values.pt")!r})
found = torch.export.load({str(tmp_path / "program.pt2")!r}).module()(*arguments)
torch.testing.assert_close(found, expected)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_heads_with_neighborhoods_of_their_own_have_relations_of_their_own():
    parts = DISC, ga.everything(GRID)
    hood = ga.heads(*parts)
    relations = tuple(relation_on(part, count, seed=count) for part, count in zip(parts, (3, 6), strict=True))
    tables = tuple(table_for(relation, (), heads=2) for relation in relations)
    q, k, v = operands(hood)
    found, lse = ga.attention(q, k, v, hood, relation=relations, relation_bias=tables, return_lse=True)
    for i, (part, relation, table) in enumerate(zip(parts, relations, tables, strict=True)):
        own = slice(2 * i, 2 * i + 2), slice(i, i + 1)
        expected = ga.attention(
            q[..., own[0], :],
            k[..., own[1], :],
            v[..., own[1], :],
            part,
            relation=relation,
            relation_bias=table,
            return_lse=True,
        )
        torch.testing.assert_close((found[..., own[0], :], lse[..., own[0]]), expected)


def test_an_entry_of_minus_infinity_hides_its_pairs_and_nothing_else():
    relation = relation_on(DISC)
    q, k, v = operands(DISC)
    table = table_for(relation, ())
    table[:, 2] = float("-inf")
    for backend in BACKENDS:
        found = ga.attention(q, k, v, DISC, relation=relation, relation_bias=table, backend=backend)
        left = relation.rows(np.arange(GRID.size))
        kept = left.numbers != 2
        indptr = np.concatenate([[0], np.cumsum(kept)])[left.indptr]
        part = ga.from_edges(GRID, GRID, indptr, left.indices[kept])
        expected = ga.attention(
            q, k, v, part, relation=relation.on(part), relation_bias=table.nan_to_num(neginf=7.0)
        )
        torch.testing.assert_close(found, expected)


def test_a_number_that_is_not_one_reaches_the_queries_that_look_it_up():
    relation = relation_on(DISC)
    q, k, v = operands(DISC)
    table = table_for(relation, ())
    table[1, 3] = float("nan")
    rows = relation.rows(np.arange(GRID.size))
    query = np.repeat(np.arange(GRID.size), np.diff(rows.indptr))
    bad = np.isin(np.arange(GRID.size), query[rows.numbers == 3])
    for backend in BACKENDS:
        out = ga.attention(q, k, v, DISC, relation=relation, relation_bias=table, backend=backend)
        found = out.isfinite().all(-1).flatten(1, 2)
        assert not found[:, bad, 1].any(), backend
        assert found[..., [0, 2, 3]].all(), backend
        assert found[:, ~bad, 1].all(), backend
    assert bad.any()


def test_a_copy_of_a_relation_names_the_same():
    relation = relation_on(DISC)
    assert copy.deepcopy(relation).identity == relation.identity
    q, k, v = operands(DISC)
    table = table_for(relation, ())
    attend = partial(ga.attention, q, k, v, DISC, relation_bias=table)
    assert torch.equal(attend(relation=relation), attend(relation=copy.deepcopy(relation)))


LARGE = {
    "rows of offsets": lambda: ga.relations.offsets(ga.window(ga.grids.cartesian((24, 40)), 5)),
    "rows of angles": lambda: ga.relations.angles(ga.geodesic(ga.grids.gaussian(16, 32), radius=25.0), 8, 4),
    "looked up": lambda: relation_on(ga.geodesic(ga.grids.healpix(4), radius=30.0), 30),
    "each its own": lambda: ga.relations.edges(ga.window(ga.grids.cartesian((24, 40)), 5)),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("batched", [False, True])
def test_the_cpu_backend_computes_the_same_bits_with_any_threads(name, batched):
    relation = LARGE[name]()
    hood = relation.hood
    q, k, v = (x.requires_grad_() for x in operands(hood, dtype=torch.float32, dim=8))
    table = table_for(relation, (2,) if batched else (), dtype=torch.float32).requires_grad_()

    def results(**options):
        out, lse = ga.attention(
            q, k, v, hood, relation=relation, relation_bias=table, return_lse=True, **options
        )
        return out, lse, *torch.autograd.grad(out.square().sum() + lse.sum(), (q, k, v, table))

    from geoattn.backends.base import Pairs
    from geoattn.backends.cpu.tables import relate

    pairs = Pairs(relation, table.detach() if batched else table.detach()[None])
    # a shared table serves both entries of the batch
    assert (relate(pairs, 2).rows is not None) == (name.startswith("rows") or not batched)
    threads = torch.get_num_threads()
    try:
        found = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(results(backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    for one, true in zip(found[0], results(backend="reference"), strict=True):
        torch.testing.assert_close(one, true, rtol=2e-5, atol=2e-5 * float(true[true.isfinite()].abs().max()))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("count", [5, 5000])  # biases in rows, and looked up
def test_a_bias_that_is_not_learned_changes_no_other_gradient(shape, count):
    relation = relation_on(ga.geodesic(ga.grids.gaussian(12, 24), radius=35.0), count)
    shape = (2, 12, 24) if len(shape) == 3 else shape
    leaves = [x.requires_grad_() for x in operands(relation.hood, dtype=torch.float32)]
    table = table_for(relation, shape, dtype=torch.float32)
    found = []
    for learned in (table.clone().requires_grad_(), table):
        out = ga.attention(*leaves, relation.hood, relation=relation, relation_bias=learned, backend="cpu")
        found.append(torch.autograd.grad(out.square().sum(), leaves))
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("lowest", [-1e4, -1e30, float(torch.finfo(torch.float32).min)])
def test_finite_biases_count_however_large_they_are(lowest):
    relation = relation_on(DISC)
    q, k, v = operands(DISC, dtype=torch.float32)
    table = table_for(relation, (), dtype=torch.float32)
    table[:, :2] = lowest
    if lowest < -1e20:
        table[0] = lowest  # a head of such biases only, beside which products vanish
    found, expected = (
        ga.attention(q, k, v, DISC, relation=relation, relation_bias=table, return_lse=True, backend=backend)
        for backend in BACKENDS[::-1]
    )
    torch.testing.assert_close(found, expected)


def test_tables_of_queries_beyond_int32_are_refused(monkeypatch):
    from geoattn.backends.cpu import tables

    relation = relation_on(DISC)
    q, k, v = operands(DISC)
    table = table_for(relation, (2, 4, 8))
    monkeypatch.setattr(tables, "_MOST_PLACES", 4 * 8 * 4 * relation.count - 1)
    with pytest.raises(ValueError, match=r"640 numbers for each entry of the batch.*some of the heads"):
        ga.attention(q, k, v, DISC, relation=relation, relation_bias=table, backend="cpu")
    parts = [
        ga.attention(
            q[..., h : h + 2, :],
            k[..., h // 2 : h // 2 + 1, :],
            v[..., h // 2 : h // 2 + 1, :],
            DISC,
            relation=relation,
            relation_bias=table[..., h : h + 2, :],
            backend="cpu",
        )
        for h in (0, 2)
    ]
    expected = ga.attention(q, k, v, DISC, relation=relation, relation_bias=table, backend="reference")
    torch.testing.assert_close(torch.cat(parts, -2), expected)
