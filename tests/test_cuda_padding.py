"""What a CUDA kernel need not do: no mask beside padding, no copy of columns that no row sees."""

from __future__ import annotations

import shutil

import emulator
import numpy as np
import pytest
import torch
from emulator import Emulated, EmulationError
from problems import difference, problem, results

import geoattn as ga
from geoattn import testing
from geoattn.backends.cuda.plans import device_plan
from geoattn.plans import tile_plan

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")

BF16, F32 = torch.bfloat16, torch.float32
TOLERANCES = testing.TOLERANCE | {F32: 1e-5}
CPU = torch.device("cpu")

emulator.register()

#: tiles of these grids hold fewer tokens than positions
PADDED = {
    "wide disc": lambda: ga.geodesic(ga.grids.equiangular(14, 27), radius=120.0),
    "narrow grid": lambda: ga.geodesic(ga.grids.equiangular(9, 96), radius=60.0),
}


def visited(hood):
    """Masks of a plan's entries, those that kernels get, and which columns a block of 64 rows sees."""
    there = device_plan(hood, CPU).entries.numpy()
    words = there[:, 3].view(np.uint32)
    seen = np.bitwise_or.reduce([words >> 8 * warp & 255 for warp in range(4)])
    return tile_plan(hood).mask_ids, there[:, 2], seen


@pytest.mark.parametrize(("name", "dtype"), [("wide disc", BF16), ("narrow grid", F32)])
def test_tiles_in_which_only_padding_is_hidden_need_no_mask(name, dtype):
    hood = PADDED[name]()
    for side in (hood, hood.transpose()):
        by_content, by_kernel, _ = visited(side)
        assert (by_kernel < 0).sum() > (by_content < 0).sum()
    heads = {"heads": 2 if dtype == BF16 else 1, "kv_heads": 1}
    testing.check(problem(hood, dtype, 16, 16, **heads, bias="shared"), "emulated", tolerances=TOLERANCES)


def test_the_share_of_full_tiles_rises_on_a_sphere():
    """Beside ``cuda/README.md``, which tells of 361×720."""
    by_content, by_kernel, _ = visited(ga.geodesic(ga.grids.equiangular(91, 180), radius=20.0))
    assert (by_content < 0).mean() < 0.02
    assert (by_kernel < 0).mean() > 0.09


REFERENCE = ga.backends.get("reference")


def of(hood, bias, backend):
    """out, lse and all gradients under a bias that dwarfs what padding would have by itself."""
    case = problem(hood, F32, dim=16, dim_v=16, heads=1, kv_heads=1)
    q, k, v, do = (x.flatten(1, -3) for x in (case.q, case.k, case.v, case.grad_out))
    vector = torch.full((1, hood.key_grid.size), bias)
    out, lse = backend.forward(q, k, v, vector, hood, 0.2)
    found = backend.backward(do, None, q, k, v, vector, out, lse, hood, 0.2, True)
    return out, lse - bias, found.q, found.k, found.v, found.key_bias


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_padding_weighs_nothing_however_low_or_high_the_others_are(bias):
    """A padded key of bias 0 would take all weight; a padded query of lse 0 would see e^10,000 of it."""
    both = (of(PADDED["wide disc"](), bias, x) for x in (Emulated(), REFERENCE))
    for found, right in zip(*both, strict=True):
        assert found.isfinite().all()
        assert difference(found, right) < 2e-2  # beside 10⁴ lse has some 10⁻³


def test_padding_that_is_not_hidden_is_caught():
    edits = (
        ("forward.cu", "token < 0 ? &a.plan.hidden->minus_lse : bias + token", "bias + token"),
        ("forward.cu", "bias || token < 0", "bias && token >= 0"),
    )
    found, right = (of(PADDED["wide disc"](), -1e4, x) for x in (Emulated(edits=edits), REFERENCE))
    assert difference(found[0], right[0]) > 0.1
    hidden = "token < 0 ? a.plan.hidden : statistics + token, true"
    edits = (("gradients.cu", hidden, "statistics + token, token >= 0"),)
    assert not all(x.isfinite().all() for x in of(PADDED["wide disc"](), 1e4, Emulated(edits=edits)))


def test_pairs_with_numbers_keep_their_masks():
    """Padding has the number 0: what is not a number in its entry reaches the queries that look it up."""
    hood = PADDED["wide disc"]()
    relation = ga.relations.angles(hood, 4)
    there = device_plan(relation, CPU).entries[:, 2].numpy()
    assert (there < 0).sum() == (tile_plan(hood).mask_ids < 0).sum() < (visited(hood)[1] < 0).sum()


# ---------------------------------------------------------------- columns that no row sees

COPIED = "if (!(groups >> row / 8 & 1)) return;"
#: what is not copied is not a number
SPOILED = (
    "tiles.cuh",
    COPIED,
    "if (!(groups >> row / 8 & 1)) { for (int c = lane; c < Tile<ROWS, DIM>::CHUNKS; c += LANES) "
    "emulator::spoil(tile + Tile<ROWS, DIM>::address(row, c), 16); return; }",
)
REPORTED = (*SPOILED[:2], COPIED.replace("return", 'emulator::fail("left out")'))
SPARSE = {
    "plane": lambda: problem(ga.window(ga.grids.cartesian((20, 13)), (5, 7)), BF16, dim=64, dim_v=64),
    "two launches for keys and values": lambda: problem(
        ga.window(ga.grids.cartesian((9, 9)), 5), BF16, dim=128, dim_v=128, heads=1, kv_heads=1
    ),
    "float32": lambda: problem(ga.window(ga.grids.cartesian((20, 13)), (5, 7)), F32, heads=1, kv_heads=1),
}


@pytest.mark.parametrize("name", SPARSE)
def test_nothing_reads_what_is_not_copied(name):
    """NaN in its place changes no bit, and some of it there is."""
    case = SPARSE[name]()
    assert (visited(case.hood)[2] != 255).any()
    plain, spoiled = (results(case, Emulated(edits=edits)) for edits in ((), (SPOILED,)))
    assert all(torch.equal(a, b) for a, b in zip(plain, spoiled, strict=True))
    assert all(x.isfinite().all() for x in plain)
    with pytest.raises(EmulationError, match="left out"):
        results(case, Emulated(edits=(REPORTED,)))


@pytest.mark.parametrize(
    ("file", "text", "replacement"),
    [
        ("forward.cu", "in_pairs(groups)});", "groups});"),
        ("gradients.cu", "SCORE_SIDE ? pairs : groups}", "groups}"),
        ("gradients.cu", "VALUE_SIDE ? pairs : groups}", "groups}"),
    ],
)
def test_columns_that_are_multiplied_by_zero_are_copied(file, text, replacement):
    """0 · NaN is NaN: sums over columns take them in pairs of groups."""
    case = SPARSE["plane"]()
    found = results(case, Emulated(edits=(SPOILED, (file, text, replacement))))
    assert not all(x.isfinite().all() for x in found)


def test_columns_that_some_row_sees_are_copied():
    edit = ("walk.cuh", "groups >> (row / 16 + warp) * 8", "groups >> row / 16 * 8")
    found, right = (results(SPARSE["plane"](), x) for x in (Emulated(edits=(SPOILED, edit)), REFERENCE))
    assert max(map(difference, found, right)) > 0.1
