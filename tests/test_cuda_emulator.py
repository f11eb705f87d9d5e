"""The CUDA kernels, executed on the CPU: right on every kind of plan, and the checks that say so work."""

from __future__ import annotations

import dataclasses
import mmap
import shutil
import sys
from functools import cache

import emulator
import numpy as np
import pytest
import torch
from emulator import Emulated, EmulationError
from problems import difference, problem, related, results, some_queries_see_nothing

import geoattn as ga
from geoattn import testing
from geoattn.backends.base import Pairs
from geoattn.backends.cuda import backend, operands, plans
from geoattn.backends.cuda.plans import DevicePlan, device_plan
from geoattn.plans import numbered_tile_plan
from geoattn.testing import oracle

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
TOLERANCES = testing.TOLERANCE | {F32: 1e-5}


emulator.register()


PROBLEMS = {
    "window on a plane": lambda: problem(ga.window(ga.grids.cartesian((20, 13)), (5, 7)), BF16),
    "causal dilated window": lambda: problem(
        ga.window(ga.grids.cartesian((14, 16)), 3, dilation=2, causal=True), BF16, bias="batch", batch=2
    ),
    "disc on a sphere": lambda: problem(
        ga.geodesic(ga.grids.equiangular(20, 80), radius=40.0), BF16, heads=1, kv_heads=1
    ),
    "disc between grids": lambda: problem(
        ga.geodesic(ga.grids.gaussian(8, 16), ga.grids.healpix(4), radius=40.0), BF16, bias="shared"
    ),
    "queries that see nothing": lambda: problem(
        some_queries_see_nothing(), BF16, heads=4, kv_heads=2, batch=2
    ),
    "all keys": lambda: problem(ga.everything(ga.grids.cartesian((128,))), BF16, heads=2, kv_heads=1),
    "narrow heads in fp16": lambda: problem(
        ga.geodesic(ga.grids.healpix(4), radius=30.0), F16, dim=16, dim_v=16, heads=2, kv_heads=1
    ),
    "values wider than keys in fp16": lambda: problem(
        ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0), F16, dim=20, dim_v=64, bias="batch", batch=2
    ),
    "wide heads": lambda: problem(
        ga.window(ga.grids.cartesian((9, 9)), 5), BF16, dim=128, dim_v=120, heads=1, kv_heads=1
    ),
    "float32": lambda: problem(
        ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0),
        F32,
        heads=2,
        kv_heads=1,
        bias="shared",
        batch=2,
    ),
    "odd dims in float32": lambda: problem(some_queries_see_nothing(), F32, dim=21, dim_v=27, bias="batch"),
    "widest float32": lambda: problem(
        ga.window(ga.grids.cartesian((70,)), 9), F32, dim=256, dim_v=256, heads=1, kv_heads=1
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_kernels_match_float64(name):
    testing.check(PROBLEMS[name](), "emulated", tolerances=TOLERANCES)


@pytest.mark.parametrize("number", range(24))
def test_random_problems_match_float64(number):
    """Grids, patterns, dtypes, head dims, grouped heads, layouts, weights, biases, masks, lse gradients."""
    testing.check(random_problems()[number], "emulated", tolerances=TOLERANCES)


@cache
def random_problems():
    return list(testing.cases(4, 24, (BF16, F16, F32)))


def test_random_problems_hold_what_they_should():
    """The draw above is not poor: each kind of option occurs, and most occur together with others."""
    drawn = random_problems()
    assert len({c.q.dtype for c in drawn}) == 3
    assert {"scale", "key_weights", "key_bias", "key_mask"} <= {name for c in drawn for name in c.options}
    assert any(
        c.options["key_bias"].ndim > len(c.hood.key_grid.shape) for c in drawn if "key_bias" in c.options
    )
    assert any(c.q.shape[-2] > c.k.shape[-2] for c in drawn)
    assert any(c.v.shape[-1] != c.q.shape[-1] for c in drawn)
    assert any(not c.q.is_contiguous() for c in drawn)
    assert any(c.hood.query_grid != c.hood.key_grid for c in drawn)
    assert any((c.hood.counts == 0).any() for c in drawn)
    assert any(c.hood.query_grid.size % 64 for c in drawn)
    assert 0 < sum(c.grad_lse is None for c in drawn) < len(drawn)


SPHERE = ga.geodesic(ga.grids.equiangular(3, 192), radius=30.0)
PLANE = ga.window(ga.grids.cartesian((16, 24)), (3, 5))
#: name → relation, shape of its table before heads and numbers, options of the problem
RELATED = {
    "offsets": (lambda: ga.relations.offsets(PLANE), (), {"dtype": BF16, "bias": "shared"}),
    "angles, heads that share keys": (
        lambda: ga.relations.angles(SPHERE, 4, sectors=3),
        (2,),
        {"dtype": F16, "heads": 2, "kv_heads": 1, "batch": 2, "dim": 16, "dim_v": 12},
    ),
    "tables of queries": (
        lambda: ga.relations.angles(SPHERE, 5),
        (1, *SPHERE.query_grid.shape),
        {"dtype": BF16, "heads": 2, "kv_heads": 1},
    ),
    "full tiles in float32": (
        lambda: ga.relations.offsets(ga.everything(ga.grids.cartesian((16, 8)))),
        (),
        {"dtype": F32, "heads": 2, "kv_heads": 1},
    ),
    "numbers of 32 bits": (
        lambda: ga.relations.edges(ga.everything(ga.grids.cartesian(257))),
        (),
        {"dtype": F32, "heads": 1, "kv_heads": 1, "dim": 16, "dim_v": 16},
    ),
}


@pytest.mark.parametrize("name", RELATED)
def test_a_bias_for_every_pair_matches_float64(name):
    testing.check(related(*RELATED[name]), "emulated", tolerances=TOLERANCES)


@pytest.mark.parametrize("seed", range(3))
def test_random_problems_with_relations_match_float64(seed):
    for case in testing.cases(300 + seed, 3, (BF16, F16, F32), relations=1.0):
        testing.check(case, "emulated", tolerances=TOLERANCES)


def test_plans_of_relations_under_test_hold_shifts_and_numbers_of_either_size():
    relations = {name: make() for name, (make, _, _) in RELATED.items()}
    found = {name: device_plan(relation, torch.device("cpu")) for name, relation in relations.items()}
    assert {plan.number_bits for plan in found.values()} == {16, 32}
    sphere = found["angles, heads that share keys"]
    assert sphere.tile_shift.any()
    assert (sphere.items[:, 2] - sphere.items[:, 1] > 1).any()


def related_results(case, emulated):
    """out, lse and all gradients of a problem with a table that queries share."""
    q, k, v, do = (x.flatten(1, -3) for x in (case.q, case.k, case.v, case.grad_out))
    table = case.options["relation_bias"]
    pairs = Pairs(case.options["relation"], table if table.ndim == 3 else table[None])
    out, lse = emulated.forward(q, k, v, None, case.hood, 0.2, pairs)
    gradients = emulated.backward(
        do, None, q, k, v, None, out, lse, case.hood, 0.2, False, pairs=pairs, needs_table=True
    )
    return out, lse, gradients.q, gradients.k, gradients.v, gradients.table


def test_gradients_of_tables_repeat_bit_for_bit_however_threads_and_blocks_are_ordered():
    case = related(*RELATED["angles, heads that share keys"])
    first, second = (related_results(case, Emulated(seed=seed)) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_gradients_of_tables_are_summed_a_part_at_a_time(monkeypatch):
    case = related(*RELATED["angles, heads that share keys"])
    whole = related_results(case, Emulated())[-1]
    for name, value in (("MOST_SUMS", 2**16), ("RUN", 3)):
        monkeypatch.setattr(backend, name, value)
    monkeypatch.setattr(plans, "TILES_AT_ONCE", 2)
    plan = DevicePlan.of(numbered_tile_plan(case.options["relation"]), torch.device("cpu"))
    many, few = len(plan.items), len(device_plan(case.options["relation"], torch.device("cpu")).items)
    assert many > few > 2**16 // (4 * 64**2)

    def other_plan(of, device):
        return DevicePlan.of(numbered_tile_plan(of), device)

    monkeypatch.setattr(backend, "device_plan", other_plan)
    torch.testing.assert_close(related_results(case, Emulated())[-1], whole, rtol=1e-4, atol=1e-4)


def test_sums_by_number_are_those_of_each_number():
    numbers = torch.tensor([3, 0, 3, 3, 5, 0, *[6] * 700])
    values = torch.randn(2, len(numbers), dtype=torch.float64)
    expected = torch.zeros(2, 9, dtype=torch.float64).index_add_(1, numbers, values)
    torch.testing.assert_close(backend.sum_by_number(values, numbers, 9), expected)


def test_entries_of_a_table_hide_pairs_or_count_however_low_they_are():
    case = related(*RELATED["offsets"])
    q, k, v = (x.flatten(1, -3) for x in (case.q, case.k, case.v))
    relation, table = case.options["relation"], case.options["relation_bias"]
    for lowest in (-torch.inf, -1e30, torch.finfo(torch.float32).min):
        biases = table.clone()
        biases[0, ::2] = lowest  # beside others: no weight
        biases[1] = lowest  # alone: a softmax of equals, or of nothing
        pairs = Pairs(relation, biases[None])
        found, right = (
            x.forward(q.float(), k.float(), v.float(), None, case.hood, 0.2, pairs)
            for x in (Emulated(), ga.backends.get("reference"))
        )
        torch.testing.assert_close(found.out[..., 0, :], right.out[..., 0, :], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.lse[..., 0], right.lse[..., 0], rtol=1e-5, atol=1e-5)
        assert found.out[..., 1, :].isfinite().all()
        assert (found.lse[..., 1] == -torch.inf).all() == (lowest == -torch.inf)
        assert (found.out[..., 1, :] == 0).all() == (lowest == -torch.inf)


def test_what_is_not_a_number_in_a_table_reaches_the_queries_that_look_it_up():
    case = related(*RELATED["offsets"])
    q, k, v = (x.flatten(1, -3) for x in (case.q, case.k, case.v))
    relation, table = case.options["relation"], case.options["relation_bias"].clone()
    table[1, 0] = torch.nan
    out = Emulated().forward(q, k, v, None, case.hood, 0.2, Pairs(relation, table[None])).out
    rows = relation.rows(np.arange(case.hood.query_grid.size))
    looks = np.add.reduceat(rows.numbers == 0, rows.indptr[:-1]) > 0
    assert 0 < looks.sum() < len(looks)
    assert out[..., 0, :].isfinite().all()
    assert (out[..., 1, :].isnan().any(-1).numpy() == looks).all()


@pytest.mark.parametrize("capability", [80, 120])
@pytest.mark.parametrize(("dtype", "dim"), [(BF16, 256), (F32, 192), (F32, 256)])
def test_blocks_of_other_devices_match_float64(capability, dtype, dim, monkeypatch):
    """Less shared memory: fewer rows and columns in a block, down to a single warp."""
    monkeypatch.setattr(Emulated, "architecture", lambda *_: capability)
    hood = ga.window(ga.grids.cartesian((7, 11)), 3)
    testing.check(
        problem(hood, dtype, dim=dim, dim_v=dim, heads=1, kv_heads=1), "emulated", tolerances=TOLERANCES
    )


def relative_errors(case, backend):
    """Of out and the gradients of q, k and v, relative to the largest true value of each."""
    hood, scale = case.hood, case.q.shape[-1] ** -0.5
    leaves = [x.double().flatten(1, -3).requires_grad_() for x in (case.q, case.k, case.v)]
    true, _ = oracle.attention(*leaves, oracle.edges(hood), scale=scale)
    upstream = case.grad_out.flatten(1, -3)
    true_gradients = torch.autograd.grad(true, leaves, upstream.double())
    q, k, v = (x.detach().float() for x in leaves)
    out, lse = backend.forward(q, k, v, None, hood, scale)
    gradients = backend.backward(upstream, None, q, k, v, None, out, lse, hood, scale, False)
    pairs = zip((out, gradients.q, gradients.k, gradients.v), (true, *true_gradients), strict=True)
    return [((found - x).abs().max() / x.abs().max()).item() for found, x in pairs]


def long_sums():
    """Each query sees 4096 keys, and each key gradients of one sign: what is cut off of a sum adds up."""
    case = problem(ga.everything(ga.grids.cartesian((16,)), ga.grids.cartesian((4096,))), F32, 16, 16, 1, 1)
    return dataclasses.replace(case, grad_out=case.grad_out.abs() + 1)


def test_float32_is_within_1e5_of_float64_over_long_sums():
    """Split precision, and sums that are rounded, though tensor cores cut theirs off."""
    errors = relative_errors(long_sums(), Emulated())
    assert max(errors) <= 3e-6, errors


def test_float32_needs_sums_outside_of_tensor_cores():
    """The emulator cuts sums off as tensor cores do: left to them, those of 4096 keys are off by more."""
    edits = (
        ("numbers.cuh", "float terms[4] = {};", "float (&terms)[4] = c;"),
        ("numbers.cuh", "c[i] += terms[i];", "c[i] = terms[i];"),
    )
    errors = relative_errors(long_sums(), Emulated(edits=edits))
    assert max(errors) > 1e-5, errors


def test_float32_needs_the_lower_halves_of_its_operands():
    edit = ("numbers.cuh", "multiply_tf32(terms, high, s0.low, s1.low);", "")
    errors = relative_errors(problem(some_queries_see_nothing(), F32), Emulated(edits=(edit,)))
    assert max(errors) > 1e-5, errors


@pytest.mark.parametrize("lowest", [-1e30, torch.finfo(torch.float32).min / 2, -torch.inf])
def test_keys_far_below_the_others_get_no_weight(lowest):
    """Biases in place of a mask: hidden among others, and −10³⁰ everywhere still a softmax of equals."""
    case = problem(ga.window(ga.grids.cartesian((70,)), 9), F32)
    q, k, v = (x.flatten(1, -3) for x in (case.q, case.k, case.v))
    bias = torch.zeros(1, 70)
    bias[:, ::3] = lowest
    bias[:, 30:50] = lowest
    hidden = torch.where(bias == 0, 0.0, -torch.inf)
    found, right = (Emulated().forward(q, k, v, b, case.hood, 0.2) for b in (bias, hidden))
    some = right.lse.isfinite()
    assert torch.equal(found.out[some], right.out[some])
    assert torch.equal(found.lse[some], right.lse[some])
    assert found.out.isfinite().all()
    if lowest == -1e30:
        seen = oracle.edges(case.hood)[40]
        assert (found.out[0, 40] - v[0, seen].mean(0)).abs().max() < 1e-5


def test_tokens_in_plan_order_give_the_same():
    """A model may keep its tokens in the plan's order: the tiles are then rows side by side."""
    case = PROBLEMS["disc on a sphere"]()
    hood, scale = case.hood, 0.2
    order = device_plan(hood, torch.device("cpu")).row_order
    order = order[order >= 0].long()
    seen = oracle.edges(hood)[order][:, order].numpy()
    tokens = ga.grids.cartesian((hood.query_grid.size,))
    indptr = np.concatenate(([0], np.cumsum(seen.sum(1))))
    ordered = ga.from_edges(tokens, tokens, indptr, np.nonzero(seen)[1])
    q, k, v = (x.flatten(1, 2) for x in (case.q, case.k, case.v))
    there = Emulated().forward(q, k, v, None, hood, scale)
    here = Emulated().forward(*(x[:, order] for x in (q, k, v)), None, ordered, scale)
    assert (here.out.float() - there.out[:, order].float()).abs().max() < 0.02
    assert (here.lse - there.lse[:, order]).abs().max() < 1e-5


def test_results_repeat_bit_for_bit_in_any_order_of_threads_and_blocks():
    case = PROBLEMS["disc on a sphere"]()
    first, second = (results(case, Emulated(seed=seed)) for seed in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_operands_are_read_where_they_lie(monkeypatch):
    """Heads first, a slice of fused projections, broadcast over the batch: no copy is made."""
    hood = ga.window(ga.grids.cartesian((8, 12)), 5)
    fused = torch.randn(2, 96, 2, 3 * 32).bfloat16()
    q = torch.randn(2, 2, 96, 32).bfloat16().transpose(1, 2)
    k, v = fused[..., 32:64], fused[:1, ..., 64:].expand(2, -1, -1, -1)
    monkeypatch.setattr(torch.nn.functional, "pad", lambda *_: pytest.fail("an operand was copied"))
    strided = Emulated().forward(q, k, v, None, hood, 0.3)
    plain = Emulated().forward(q.contiguous(), k.contiguous(), v.contiguous(), None, hood, 0.3)
    assert torch.equal(strided.out, plain.out)
    assert torch.equal(strided.lse, plain.lse)


def test_plans_under_test_hold_every_kind_of_tile():
    """Shared lists with shifts, full tiles beside partial ones, plans without a mask, empty lists."""

    def plan(name):
        return device_plan(PROBLEMS[name]().hood, torch.device("cpu"))

    sphere = plan("disc on a sphere")
    assert sphere.tile_shift.any()
    assert len(sphere.starts) - 1 < sphere.n_tiles
    assert (sphere.entries[:, 2] >= 0).any()
    assert (sphere.entries[:, 2] < 0).any()
    assert not plan("all keys").masked


# name → edits of the sources, and what the emulator says (nothing where the result must show it)
FAULTS = {
    "wrong wait count": (
        ("forward.cu", "<0>();\n        barrier();  // this", "<1>();\n        barrier();  // this"),
        "before its copy has landed",
    ),
    "wrong wait count, backward": (
        ("gradients.cu", "<0>();\n        barrier();  // this", "<1>();\n        barrier();  // this"),
        "before its copy has landed",
    ),
    "missing barrier": (
        ("forward.cu", "barrier();  // this step's keys", "// this step's keys"),
        "race|before its copy has landed",
    ),
    "missing barrier, backward": (
        ("gradients.cu", "barrier();  // this step's columns", "// this step's columns"),
        "race|before its copy has landed",
    ),
    "barrier that some threads miss": (
        ("forward.cu", "barrier();\n    RowOperand", "if (warp) barrier();\n    RowOperand"),
        "wait forever|divergent warp|race|before its copy has landed",
    ),
    "divergent collective": (
        ("forward.cu", "total += from_lane_xor(total, 2)", "if (lane % 8) total += from_lane_xor(total, 2)"),
        "divergent warp|wait forever",
    ),
    "divergent collective, backward": (
        ("gradients.cu", "row_gradient += from_lane_xor(row_gradient, 2)",
         "if (lane % 8) row_gradient += from_lane_xor(row_gradient, 2)"),
        "divergent warp|wait forever",
    ),
    "shared address out of bounds": (
        ("tiles.cuh", "load_matrices(words, row(2 * step))", "load_matrices(words, row(2 * step) + 999424)"),
        "out of bounds",
    ),
    "shared address not aligned": (
        ("tiles.cuh", "load_matrices(words, row(2 * step))", "load_matrices(words, row(2 * step) + 4)"),
        "not aligned to 16",
    ),
    "global address not aligned": (
        ("tiles.cuh", "from + c * PER_CHUNK, token", "from + c * PER_CHUNK + 1, token"),
        "not aligned to 16",
    ),
    "copies never committed": (
        ("forward.cu", "        commit_copies();\n        const Step far", "        const Step far"),
        "before its copy has landed|never committed",
    ),
    "wrong fragment address": (
        ("tiles.cuh", "row(tile + 2 * m * T::EIGHT_ROWS, lane % 16, lane / 16)",
         "row(tile + 2 * m * T::EIGHT_ROWS, (lane + 1) % 16, lane / 16)"),
        None,
    ),
    "wrong mask bit": (
        ("walk.cuh", "n % 4 * 8 + element % 2", "n % 4 * 8 + 1 - element % 2"),
        None,
    ),
    "wrong group bit": (
        ("walk.cuh", "groups >> row / 16 * 8", "groups >> row / 32 * 8"),
        None,
    ),
    "row that is not copied": (  # shared memory holds NaN until it is written
        ("tiles.cuh", "token >= 0 && (c + lane)", "token >= 0 && row != 5 && (c + lane)"),
        None,
    ),
    "shared memory that is not written": (
        ("tiles.cuh", "copy_async<16>(place(c)", "if (row != 5) copy_async<16>(place(c)"),
        None,
    ),
    "gradient of the wrong statistics": (
        ("gradients.cu", "statistics[i % 2] : row", "statistics[i / 2] : row"),
        None,
    ),
}  # fmt: skip


# the same for kernels with a relation
RELATED_FAULTS = {
    "another lane's numbers": (("walk.cuh", "/ 8) * 32 + lane;", "/ 8) * 32 + (lane ^ 1);"), None),
    "numbers in another order": (("walk.cuh", "+ found[i]);", "+ found[3 - i]);"), None),
    "table of another head": (("walk.cuh", "head * relation.head;", "0 * relation.head;"), None),
    "rows that are overwritten": (
        ("table.cu", "barrier();  // all warps", "// all warps"),
        "race|before its copy has landed",
    ),
    "wrong wait count": (
        ("table.cu", "wait_for_copies<0>", "wait_for_copies<1>"),
        "before its copy has landed",
    ),
    "sums of one tile": (("table.cu", "t < item.end_tile", "t < item.first_tile + 1"), None),
    "sums of hidden pairs": (("table.cu", "if (!PARTIAL || seen(n, i))", ""), None),
}  # fmt: skip


@pytest.mark.parametrize("name", RELATED_FAULTS)
def test_faults_planted_in_what_relations_add_are_caught(name):
    edit, message = RELATED_FAULTS[name]
    case = related(*RELATED["offsets"])
    if message is None:
        right, wrong = (related_results(case, Emulated(edits=edits)) for edits in ((), (edit,)))
        assert max(difference(a, b) for a, b in zip(wrong, right, strict=True)) > 0.1
    else:
        with pytest.raises(EmulationError, match=message):
            related_results(case, Emulated(edits=(edit,)))


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name):
    """A fault is reported by the emulator, or, if it only computes something else, shows in the result."""
    edit, message = FAULTS[name]
    case = PROBLEMS["window on a plane"]()
    if message is None:
        right = results(case, ga.backends.get("reference"))
        wrong = results(case, Emulated(edits=(edit,)))
        assert max(difference(a, b) for a, b in zip(wrong, right, strict=True)) > 0.1
    else:
        with pytest.raises(EmulationError, match=message):
            results(case, Emulated(edits=(edit,)))


def test_nothing_is_caught_where_nothing_is_planted():
    case = PROBLEMS["window on a plane"]()
    pairs = zip(results(case, Emulated()), results(case, ga.backends.get("reference")), strict=True)
    assert max(difference(a, b) for a, b in pairs) < 0.04


def test_accesses_outside_every_array_are_reported():
    """Reads and writes of global memory stay within the tensors of the launch."""
    edit = ("forward.cu", "a.lse.token, token)", "a.lse.token, token + 100000000)")
    case = PROBLEMS["window on a plane"]()
    q, k, v = (x.flatten(1, 2) for x in (case.q, case.k, case.v))
    with pytest.raises(EmulationError, match="outside every array"):
        Emulated(edits=(edit,)).forward(q, k, v, None, case.hood, 0.2)


def test_the_emulator_skips_with_a_reason_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert emulator.Emulated().unavailable() == "g++ is not installed"


#: elements between neighboring tokens and batch entries of the tensors below, beyond 2³¹ from end to end
FAR = {"token": 48_000_000, "batch": 3_500_000_000}


#: MAP_NORESERVE of Linux, which the module mmap of Python 3.11 does not name
NO_RESERVE = 0x4000


@pytest.fixture
def far_apart():
    """Makes tensors ``[batch, token, head, channel]`` that reach over billions of elements.

    Their memory is promised by the system but never used, except for the pages of their rows.
    """
    if sys.platform != "linux":
        pytest.skip("memory without reservation is mapped in the way of Linux")
    regions = []

    def make(shape, dtype):
        size = dtype.itemsize
        reach = (shape[0] - 1) * FAR["batch"] + (shape[1] - 1) * FAR["token"] + shape[2] * shape[3]
        try:
            region = mmap.mmap(-1, reach * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE)
        except OSError as error:
            pytest.skip(f"the system does not promise {reach * size >> 30} GiB of address space: {error}")
        regions.append(region)
        flat = torch.frombuffer(region, dtype=dtype)
        return flat.as_strided(shape, (FAR["batch"], FAR["token"], shape[3], 1))

    return make


def test_tokens_too_far_apart_for_32_bits_are_copied():
    """Strides between tokens are 32-bit numbers of bytes; nothing but the copy is ever read."""
    shape = (1, 2, 1, 4)
    assert not operands.near(torch.empty_strided(shape, (1, 2**30, 4, 1), device="meta"))
    assert operands.near(torch.empty_strided(shape, (1, 2**30 - 1, 4, 1), device="meta"))


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_elements_beyond_2_to_the_31_are_addressed(dtype, far_apart, monkeypatch):
    """Operands, outputs and gradients whose rows lie billions of elements apart."""
    hood = ga.window(ga.grids.cartesian((70,)), 9)
    case = problem(hood, dtype, dim=16, dim_v=16, batch=2)
    near = results(case, Emulated())

    def spread(x):
        there = far_apart(x.shape, x.dtype)
        there.copy_(x)
        return there

    empty, empty_like = torch.Tensor.new_empty, torch.empty_like

    def new_empty(x, *shape, dtype=None):
        kept = shape[-1] == 2 or len(shape) < 4  # statistics and lse, which lie side by side
        return empty(x, *shape, dtype=dtype) if kept else far_apart(shape, dtype or x.dtype)

    def like(x, memory_format=None):
        return far_apart(x.shape, x.dtype) if x.ndim == 4 else empty_like(x, memory_format=memory_format)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    monkeypatch.setattr(torch, "empty_like", like)
    operands = {name: spread(getattr(case, name)) for name in ("q", "k", "v", "grad_out")}
    far = results(dataclasses.replace(case, **operands), Emulated())
    assert far[0].stride(0) == FAR["batch"]
    assert all(torch.equal(a, b) for a, b in zip(far, near, strict=True))


def test_addresses_of_32_bits_are_caught(far_apart):
    """The test above can fail: with products of 32 bits, rows are read where there are none."""
    edit = ("tiles.cuh", "(u64)(u32)token * stride", "(u32)token * stride")
    hood = ga.window(ga.grids.cartesian((70,)), 9)
    case = problem(hood, BF16, dim=16, dim_v=16, batch=2)
    q = far_apart(case.q.shape, BF16).copy_(case.q)
    right = Emulated().forward(q, case.k, case.v, None, hood, 0.2)
    wrong = Emulated(edits=(edit,)).forward(q, case.k, case.v, None, hood, 0.2)
    assert difference(wrong.out, right.out) > 0.1
