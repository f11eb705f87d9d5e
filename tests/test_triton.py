"""The Triton kernels in Triton's interpreter: right on every kind of plan, and the checks work."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import interpreter
import numpy as np
import pytest
import torch
from interpreter import Interpreted
from problems import difference, problem, related, results, some_queries_see_nothing

import geoattn as ga
from geoattn import testing
from geoattn.backends.base import Pairs
from geoattn.backends.triton import backend, plans, variants
from geoattn.backends.triton.backend import Triton
from geoattn.backends.triton.plans import upload
from geoattn.plans import tile_plan
from geoattn.plans.blocks import EVERYTHING, in_blocks
from geoattn.plans.choice import block_plan, choice
from geoattn.plans.gathered import gathered, gathered_bounds, tokens_of

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

F16, F32 = torch.float16, torch.float32
TOLERANCES = testing.TOLERANCE | {F32: 1e-5}
KERNELS = Path(backend.__file__).parent


PROBLEMS = {
    "window on a plane": lambda: problem(ga.window(ga.grids.cartesian((11, 13)), (5, 7)), F16),
    "causal dilated window": lambda: problem(
        ga.window(ga.grids.cartesian((14, 16)), 3, dilation=2, causal=True), F16, bias="batch", batch=2
    ),
    "disc on a sphere": lambda: problem(
        ga.geodesic(ga.grids.equiangular(3, 192), radius=30.0), F16, heads=1, kv_heads=1
    ),
    "disc between grids": lambda: problem(
        ga.geodesic(ga.grids.gaussian(8, 16), ga.grids.healpix(4), radius=40.0), F16, bias="shared"
    ),
    "queries that see nothing": lambda: problem(
        some_queries_see_nothing(), F16, heads=4, kv_heads=2, batch=2
    ),
    "three heads of one key head": lambda: problem(
        ga.geodesic(ga.grids.healpix(4), radius=30.0), F32, dim=16, dim_v=16, heads=3, kv_heads=1
    ),
    "scales of heads": lambda: problem(
        some_queries_see_nothing(), F16, heads=4, kv_heads=2, scale=torch.tensor([0.3, 0.1, -0.2, 0.0])
    ),
    "all keys": lambda: problem(ga.everything(ga.grids.cartesian((128,))), F32, heads=2, kv_heads=1),
    "values wider than keys": lambda: problem(
        ga.geodesic(ga.grids.equiangular(9, 16), radius=50.0), F16, dim=20, dim_v=150, bias="batch", batch=2
    ),
    "widest heads": lambda: problem(
        ga.window(ga.grids.cartesian((40,)), 9), F32, dim=300, dim_v=260, heads=1, kv_heads=1
    ),
}


def checked(name):
    testing.check(PROBLEMS[name](), "interpreted", tolerances=TOLERANCES)


@pytest.mark.parametrize("name", PROBLEMS)
def test_kernels_match_float64(name):
    interpreter.run(checked, name)


def random_problems():
    return list(testing.cases(4, 16, (F16, F32)))


def random_checked(number):
    testing.check(random_problems()[number], "interpreted", tolerances=TOLERANCES)


@pytest.mark.parametrize("number", range(16))
def test_random_problems_match_float64(number):
    """Grids, patterns, dtypes, head dims, grouped heads, layouts, weights, biases, masks, lse gradients."""
    interpreter.run(random_checked, number)


def test_random_problems_hold_what_they_should():
    """The draw above is not poor: each kind of option occurs, and most occur together with others."""
    drawn = random_problems()
    assert {c.q.dtype for c in drawn} == {F16, F32}
    assert {"scale", "key_weights", "key_bias", "key_mask"} <= {name for c in drawn for name in c.options}
    assert any(isinstance(c.options.get("scale"), torch.Tensor) for c in drawn)
    assert {c.q.shape[-2] // c.k.shape[-2] for c in drawn} >= {1, 2, 4}
    assert any(c.v.shape[-1] != c.q.shape[-1] for c in drawn)
    assert any(not c.q.is_contiguous() for c in drawn)
    assert any((c.hood.counts == 0).any() for c in drawn)
    assert 0 < sum(c.grad_lse is None for c in drawn) < len(drawn)
    assert {block_plan(c.hood).gathered for c in drawn} == {True, False}


SPHERE = ga.geodesic(ga.grids.equiangular(3, 128), radius=30.0)
PLANE = ga.window(ga.grids.cartesian((9, 11)), (3, 5))
#: name → relation, shape of its table before heads and numbers, options of the problem
RELATED = {
    "offsets": (lambda: ga.relations.offsets(PLANE), (), {"dtype": F16, "bias": "shared"}),
    "angles, heads that share keys": (
        lambda: ga.relations.angles(SPHERE, 4, sectors=3),
        (2,),
        {"dtype": F32, "heads": 2, "kv_heads": 1, "batch": 2, "dim": 16, "dim_v": 12},
    ),
    "tables of queries": (
        lambda: ga.relations.offsets(PLANE),
        (1, *PLANE.query_grid.shape),
        {"dtype": F32, "heads": 2, "kv_heads": 1, "dim": 16, "dim_v": 16},
    ),
}


def related_checked(name):
    testing.check(related(*RELATED[name]), "interpreted", tolerances=TOLERANCES)


@pytest.mark.parametrize("name", RELATED)
def test_a_bias_for_every_pair_matches_float64(name):
    interpreter.run(related_checked, name)


RELATED_FAULTS = {
    "numbers of another tile": ("walk.py", "number_ids + 2 * step", "number_ids + 0 * step"),
    "table of another head": ("walk.py", "+ head.to(tl.int64) * table.head", "+ 0 * head.to(tl.int64)"),
    "sums of one block": (
        "gradients.py",
        "tl.load(items + 4 * item + 2)",
        "tl.load(items + 4 * item + 1) + 1",
    ),
    "sums of hidden pairs": ("gradients.py", "seen_in(plan, step, place, part * N, N, 1)", "there[:, None]"),
}


def related_apart(edit):
    """How far results with a table lie from those of the reference, with and without a fault."""
    case = related(*RELATED["angles, heads that share keys"])
    q, k, v, do = (x.flatten(1, -3)[:1] for x in (case.q, case.k, case.v, case.grad_out))
    pairs = Pairs(case.options["relation"], case.options["relation_bias"][:1])

    def of(backend):
        out, lse = backend.forward(q, k, v, None, case.hood, 0.2, pairs)
        found = backend.backward(
            do, None, q, k, v, None, out, lse, case.hood, 0.2, False, pairs=pairs, needs_table=True
        )
        return out, found.q, found.k, found.table

    with tempfile.TemporaryDirectory() as folder:
        found = of(Interpreted({} if edit is None else faulty(edit, folder)))
    return max(difference(a, b) for a, b in zip(found, of(ga.backends.get("reference")), strict=True))


@pytest.mark.parametrize("name", [None, *RELATED_FAULTS])
def test_faults_planted_in_what_relations_add_are_caught(name):
    apart = interpreter.run(related_apart, RELATED_FAULTS.get(name))
    assert apart < 1e-4 if name is None else apart > 0.01


def random_related_checked():
    for case in testing.cases(300, 3, (F16, F32), relations=1.0):
        testing.check(case, "interpreted", tolerances=TOLERANCES)


def test_random_problems_with_relations_match_float64():
    interpreter.run(random_related_checked)


# name → file, text, replacement; and whether in a plan of whole tiles, else in one of gathered keys
FAULTS = {
    "bit of another column": ("walk.py", "(column % 32)", "((column + 1) % 32)"),
    "words in the wrong order": ("walk.py", "low[:, None], high[:, None]", "high[:, None], low[:, None]"),
    "mask of the other tile": ("walk.py", "place < SIDE", "place >= SIDE"),
    "shift forgotten": ("walk.py", "(plan.steps + 4 * step) + shift", "(plan.steps + 4 * step)", True),
    "keys of another block": ("walk.py", "(step + shift).to", "(step + 0 * shift).to"),
    "padding that is visible": ("walk.py", "where(there, 0.0, float(\"-inf\"))", "where(there, 0.0, 0.0)"),
    "no rescaling": ("forward.py", "sums * shrink[:, None]", "sums"),
    "steps without a mask left out": ("forward.py", "end = tl.load(bounds + 2)", "end = middle"),
    "steps with a mask left out": ("forward.py", "begin = tl.load(bounds)", "begin = middle"),
    "maximum that lags": ("forward.py", "total * shrink +", "total +"),
    "delta forgotten": ("gradients.py", "(dp - delta[:, None])", "dp"),
    "delta of keys forgotten": ("gradients.py", "(dp - delta[None, :])", "dp"),
    "gradient of lse forgotten": ("gradients.py", "delta -= tl.load(lse", "delta -= 0 * tl.load(lse"),
    "head of another group": ("gradients.py", "head * SHARED + sharer", "head * SHARED"),
}  # fmt: skip


def faulty(edit, folder):
    """The kernels with one text replaced."""
    name, text, replacement = edit
    modules = {}
    for file in ("walk.py", "forward.py", "gradients.py"):
        source = (KERNELS / file).read_text()
        if file == name:
            assert text in source, f"{text!r} is not in {name}"
            source = source.replace(text, replacement)
        unique = f"faulty_{Path(folder).name}_"
        path = Path(folder) / f"{unique}{file}"
        path.write_bytes(source.replace("geoattn.backends.triton.walk", f"{unique}walk").encode())
        spec = importlib.util.spec_from_file_location(path.stem, path)
        modules[file] = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[file])
    forward, gradients = modules["forward.py"], modules["gradients.py"]
    return {"attend": forward.attend} | {
        name: getattr(gradients, name)
        for name in ("note", "query_gradient", "key_gradients", "table_gradient")
    }


def turning():
    """Lists that tiles share up to a shift, steps that need no mask, heads that share keys, padding."""
    hood = ga.geodesic(ga.grids.equiangular(5, 96), radius=60.0)
    return problem(hood, F32, dim=16, dim_v=16, heads=2, kv_heads=1)


def apart(edit, whole):
    """How far results lie from those of the reference, with and without a fault."""
    way = (lambda plan: plan) if whole else gathered
    plans._plans.clear()
    plans.block_plan = lambda hood, tiles: way(in_blocks(tile_plan(hood), tiles))
    try:
        with tempfile.TemporaryDirectory() as folder:
            kernels = {} if edit is None else faulty(edit, folder)
            alone = turning()
            pairs = dataclasses.replace(
                alone, k=alone.k.repeat_interleave(2, -2), v=alone.v.repeat_interleave(2, -2)
            )
            # blocks of one tile for two heads, and for the forward pass blocks of two tiles too
            backward = edit is None or edit[0] == "gradients.py"
            found = [results(alone, Interpreted(kernels), backward)]
            right = [results(alone, ga.backends.get("reference"), backward)]
            if not backward:
                found.append(results(pairs, Interpreted(kernels), backward))
                right *= 2
    finally:
        plans._plans.clear()
        plans.block_plan = block_plan
    return max(difference(a, b) for x, y in zip(found, right, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name):
    *edit, whole = (*FAULTS[name], False)[:4]
    assert interpreter.run(apart, edit, whole) > 0.01


@pytest.mark.parametrize("whole", [False, True], ids=["gathered", "tiles"])
def test_nothing_is_caught_where_nothing_is_planted(whole):
    assert interpreter.run(apart, None, whole) < 1e-4


def test_the_faulty_problem_has_shifts_padding_and_both_kinds_of_steps():
    alone, paired = (in_blocks(tile_plan(turning().hood), tiles) for tiles in (1, 2))
    assert alone.block_shift.any()
    for plan in (alone, paired):
        assert (plan.column_order < 0).any()
        assert (plan.bounds[:, 0] < plan.bounds[:, 1]).any()
        assert (plan.bounds[:, 1] < plan.bounds[:, 2]).any()


def test_no_sum_depends_on_the_order_of_programs():
    """No two programs write one place: kernels without atomic additions repeat bit for bit."""
    sources = [path.read_text() for path in KERNELS.glob("*.py")]
    assert len(sources) > 4
    assert not any("tl.atomic" in source for source in sources)


# ---------------------------------------------------------------- numbers at the edges


def with_bias(lowest):
    case = problem(ga.window(ga.grids.cartesian((70,)), 9), F32)
    q, k, v = (x.flatten(1, -3) for x in (case.q, case.k, case.v))
    bias = torch.zeros(1, 70)
    bias[:, ::3] = lowest
    bias[:, 30:50] = lowest
    hidden = torch.where(bias == 0, 0.0, -torch.inf)
    found, right = (Interpreted().forward(q, k, v, b, case.hood, 0.2) for b in (bias, hidden))
    seen = testing.oracle.edges(case.hood)[40]
    return found, right, v[0, seen].mean(0) - found.out[0, 40]


@pytest.mark.parametrize("lowest", [-1e30, torch.finfo(torch.float32).min / 2, -torch.inf])
def test_keys_far_below_the_others_get_no_weight(lowest):
    """Biases in place of a mask: hidden among others, and −10³⁰ everywhere still a softmax of equals."""
    found, right, beside_mean = interpreter.run(with_bias, lowest)
    some = right.lse.isfinite()
    assert torch.equal(found.out[some], right.out[some])
    assert torch.equal(found.lse[some], right.lse[some])
    assert found.out.isfinite().all()
    assert (found.lse[0, 40] == -torch.inf).all() == (lowest == -torch.inf)
    if lowest == -1e30:
        assert beside_mean.abs().max() < 1e-5


def spoiled(name, value):
    hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=40)
    case = problem(hood, F32, dim=16, dim_v=16, heads=1, kv_heads=1)
    getattr(case, name).view(128, 16)[37, 3] = value
    return hood, results(case, Interpreted())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_what_is_not_a_number_reaches_the_queries_that_see_it(name, value):
    hood, (out, lse, dq, dk, dv) = interpreter.run(spoiled, name, value)
    reached = testing.oracle.edges(hood)[:, 37] if name != "q" else torch.arange(128) == 37
    assert 0 < reached.sum() < 128
    assert not out[0, reached, 0].isfinite().all(-1).any()
    if name != "v":
        assert not lse[0, reached].isfinite().any()
        assert not (lse[0, reached] == -math.inf).any(), "not a number is not: no key"
    if name != "v" and not (name == "k" and math.isinf(value)):
        assert out[0, ~reached].isfinite().all()
    assert not dq[0, reached].isfinite().all((-2, -1)).any()
    assert not dk[0, 37].isfinite().all()
    assert name == "v" or not dv[0, 37].isfinite().all()


# ---------------------------------------------------------------- plans

HOODS = {
    "plane": lambda: ga.window(ga.grids.cartesian((20, 43)), (5, 7)),
    "line": lambda: ga.window(ga.grids.cartesian((130,)), 9),
    "sphere": lambda: ga.geodesic(ga.grids.equiangular(20, 80), radius=40.0),
    "padded sphere": lambda: ga.geodesic(ga.grids.equiangular(9, 96), radius=60.0),
    "healpix": lambda: ga.geodesic(ga.grids.healpix(8), radius=20.0),
    "all": lambda: ga.everything(ga.grids.gaussian(8, 16)),
    "edges": some_queries_see_nothing,
}


def columns_of(plan, step, block):
    """Tokens of a step's columns."""
    shift, label = plan.block_shift[block], plan.block_class[block]
    if plan.gathered:
        before = plan.lengths[:block].sum() - plan.bounds[label, 0]
        return tokens_of(plan)[before + step]
    tile, end = plan.steps[step, :2]
    moved = tile + shift
    return plan.column_order.reshape(-1, 64)[moved - plan.ring if moved >= end else moved]


def seen_by(plan):
    """Pairs of tokens that a plan in blocks shows."""
    n_queries, n_keys = ((order >= 0).sum() for order in (plan.row_order, plan.column_order))
    seen = np.zeros((n_queries + 1, n_keys + 1), dtype=int)  # the last: padding
    bits = np.unpackbits(plan.masks.view(np.uint8).reshape(len(plan.masks), 64, 8), axis=2, bitorder="little")
    for block, label in enumerate(plan.block_class):
        rows = plan.row_order.reshape(-1, plan.tiles, 64)[block]
        for step in range(plan.bounds[label, 0], plan.bounds[label, 2]):
            columns = columns_of(plan, step, block)
            for side in range(plan.tiles):
                np.add.at(seen, (rows[side][:, None], columns[None, :]), bits[plan.steps[step, 2 + side]])
    return seen[:-1, :-1]


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("gathers", [False, True], ids=["tiles", "gathered"])
@pytest.mark.parametrize("name", HOODS)
def test_blocks_show_each_pair_of_the_neighborhood_once(name, gathers, tiles):
    hood = HOODS[name]()
    plan = in_blocks(tile_plan(hood), tiles)
    plan = gathered(plan) if gathers else plan
    assert (seen_by(plan) == testing.oracle.edges(hood).numpy()).all()
    full = (plan.steps[:, 2 : 2 + plan.tiles] == EVERYTHING).all(1)
    for first, middle, last in plan.bounds:
        assert full[middle:last].all()
        assert gathers or not full[first:middle].any()
    assert (np.diff(plan.lengths[plan.schedule]) <= 0).all()


@pytest.mark.parametrize("name", HOODS)
def test_gathered_steps_are_no_more_than_their_columns_fill(name):
    whole = in_blocks(tile_plan(HOODS[name]()))
    few = gathered(whole)
    assert (few.lengths <= whole.lengths).all()
    assert (few.bounds == gathered_bounds(whole)).all()
    for first, _, last in few.bounds:
        held = few.places[first:last, 0].reshape(-1) >= 0
        assert (~held).sum() < 64 or last == first


def test_keys_are_gathered_where_that_is_cheaper():
    ways = {name: choice(in_blocks(tile_plan(make()))) for name, make in HOODS.items()}
    assert ways["sphere"].gathers
    assert not ways["all"].gathers, "nothing is left out, and whole tiles need no places"
    for name, way in ways.items():
        chosen = block_plan(HOODS[name]())
        assert chosen.gathered == way.gathers
        assert chosen.lengths.sum() == (way.gathered if way.gathers else way.tiles).count


@pytest.mark.parametrize("tiles", [1, 2])
def test_everything_needs_no_plan_of_tiles(tiles, monkeypatch):
    monkeypatch.setattr("geoattn.plans.choice.tile_plan", lambda _: pytest.fail("a plan of tiles was made"))
    hood = ga.everything(ga.grids.gaussian(8, 16), ga.grids.cartesian((70,)))
    plan = block_plan(hood, tiles)
    assert (seen_by(plan) == 1).all()
    assert (plan.bounds == [[0, 0, 2]]).all(), "no step needs a mask"


def test_neighboring_tiles_share_most_of_their_steps():
    plan = tile_plan(ga.geodesic(ga.grids.equiangular(61, 120), radius=14.0))
    alone, paired = (in_blocks(plan, tiles).lengths.sum() for tiles in (1, 2))
    assert paired < 0.65 * alone


def test_padding_alone_needs_no_mask():
    plan = tile_plan(HOODS["padded sphere"]())
    blocks = in_blocks(plan, 1)
    unmasked = (blocks.bounds[:, 2] - blocks.bounds[:, 1]).sum()
    assert (plan.key_order < 0).any()
    assert unmasked > (plan.mask_ids < 0).sum()


def test_plans_are_uploaded_as_they_are():
    plan = in_blocks(tile_plan(HOODS["sphere"]()))
    there = upload(plan, torch.device("cpu"))
    assert (there.masks.numpy().view(np.uint64) == plan.masks).all()
    assert there.blocks == len(plan.block_class)


def test_an_estimate_tells_which_and_why():
    text = str(ga.plans.estimate(HOODS["sphere"]()))
    way = choice(in_blocks(tile_plan(HOODS["sphere"]())))
    assert f"gathers keys: {way.gathered.count:,} (" in text
    assert f"steps for {way.tiles.count:,} (" in text
    assert "whole tiles: " in str(ga.plans.estimate(HOODS["all"]()))
    assert ga.plans.estimate(HOODS["sphere"](), query_tile=32, key_tile=1).blocks is None


# ---------------------------------------------------------------- refusals


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert ga.backends()["triton"] == "it runs on GPUs of NVIDIA and AMD, and torch finds none"
    monkeypatch.setattr(backend, "find_spec", lambda _: None)
    assert "triton is not installed" in ga.backends()["triton"]


@pytest.mark.parametrize(("version", "old"), [("3.4.0", True), ("3.6.0", False), ("3.10.1+git", False)])
def test_an_old_triton_is_named(monkeypatch, version, old):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("triton.__version__", version)
    reason = Triton().unavailable()
    assert reason == ("triton 3.4.0 is older than 3.6, which torch 2.11 brings" if old else None)


def test_it_refuses_what_it_cannot_run():
    hood = ga.window(ga.grids.cartesian((70,)), 9)

    def refused(device="meta", dtype=F32, dim=16):
        q = torch.empty(1, 70, 1, dim, dtype=dtype, device=device)
        return Interpreted().refuses(q, q, q, hood) if device == "cpu" else Triton().refuses(q, q, q, hood)

    assert refused() == "tensors are on meta, not on a cuda device"
    assert refused("cpu", torch.float64) == "dtype float64 is not among bfloat16, float16, float32"
    assert refused("cpu", dim=513) == f"head dim 513 is above {variants.MOST_CHANNELS}"
    assert refused("cpu", dim=512) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("seed", range(4))
def test_random_problems_match_float64_on_a_device(seed):
    dtypes = (torch.bfloat16, F16, F32)
    print(testing.check_backend("triton", 9, seed, "cuda", dtypes, tolerances=TOLERANCES))
