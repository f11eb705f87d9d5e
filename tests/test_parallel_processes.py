"""One attention over several processes gives what one process gives; four stay for all tests here."""

from __future__ import annotations

import numpy as np
import parallel_jobs as jobs
import pytest
import torch
import torch.distributed as dist
from crew import Crew

import geoattn as ga

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")

SPHERE = ga.grids.gaussian(8, 16)
PLANE = ga.grids.cartesian((6, 10))
DISC = ga.geodesic(SPHERE, radius=30.0)


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 1), (4, 2)])
def test_the_random_matrix(crew, n, seed):
    """Every pattern and option, cut well, cut at random, and with processes that hold nothing."""
    crew(jobs.matrix, n, seed, 12, 0.3)


def test_everything_takes_the_exchange_that_moves_less(crew):
    everything = ga.everything(SPHERE)
    assert crew(jobs.one, 4, everything, {"heads": 4, "key_bias": True, "scale": True})[0] == "heads"
    assert crew(jobs.one, 4, everything, {"heads": 8, "kv_heads": 4, "relation": True})[0] == "heads"
    of_few = ga.everything(ga.grids.healpix(1), SPHERE)
    assert crew(jobs.one, 4, of_few, {"heads": 8, "kv_heads": 2, "key_bias": True})[0] == "heads"
    assert crew(jobs.one, 4, everything, {"heads": 4, "kv_heads": 1})[0] == "halo"
    assert crew(jobs.one, 2, everything, {"heads": 3})[0] == "halo"


@pytest.mark.parametrize(
    "hood",
    [
        ga.heads(DISC, ga.geodesic(SPHERE, radius=60.0)),
        ga.heads(ga.everything(SPHERE), DISC),
        ga.product(ga.window(ga.grids.cartesian(4), 3, causal=True), DISC),
        ga.nearest(SPHERE, ga.grids.healpix(4), k=5),
        ga.window(PLANE, (3, 5)).without_keys(np.arange(60).reshape(6, 10) % 7 == 0),
        ga.union(DISC, ga.nearest(SPHERE, k=20)),
        ga.curve_window(ga.grids.healpix(4), 12),
        ga.k_hop(ga.grids.icosahedral(2), 2),
    ],
    ids=lambda hood: hood.kind,
)
def test_patterns_beyond_the_matrix(crew, hood):
    crew(jobs.one, 4, hood, {"heads": 4, "kv_heads": 2, "key_bias": True})


@pytest.mark.parametrize("hood", [DISC, ga.everything(SPHERE)], ids=["halo", "heads"])
def test_half_precision_travels_as_it_is_and_what_is_added_in_full(crew, hood):
    options = {"heads": 8, "key_bias": True, "scale": True, "relation": True, "dtype": torch.bfloat16}
    crew(jobs.one, 4, hood, options)


def test_what_is_run_on_devices_runs_here(crew):
    crew(jobs.on_device, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and dist.is_nccl_available()),
    reason="needs a CUDA device and NCCL; on one device a process sends to itself, on two messages travel",
)
def test_messages_travel_on_nccl():
    together = Crew(min(4, torch.cuda.device_count()), "nccl")
    try:
        together(jobs.on_device, "cuda")
    finally:
        together.close()


def test_a_process_may_hold_no_query_and_another_no_key(crew):
    fine, coarse = SPHERE, ga.grids.healpix(2)
    hood = ga.nearest(fine, coarse, k=4)
    queries = (np.arange(fine.size) % 3).astype(np.int16)
    keys = (1 + np.arange(coarse.size) % 3).astype(np.int16)
    cut = ga.parallel.Cut(4, (fine, coarse), (queries, keys))
    crew(jobs.one, 4, hood, {"key_bias": True, "scale": True}, cut)


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize(
    ("hood", "sizes"),
    [
        (DISC, {"heads": 4, "kv_heads": 2}),
        (DISC, {"heads": 4, "key_bias": True}),
        (ga.window(PLANE, (3, 5)), {"heads": 2, "batch": 3}),
        (ga.everything(SPHERE), {"heads": 8, "key_bias": True}),
        (ga.heads(DISC, ga.everything(SPHERE)), {"heads": 8}),
    ],
    ids=["grouped heads", "a bias", "batch", "everything", "heads"],
)
def test_the_bytes_that_move_are_those_of_the_estimate(crew, n, hood, sizes):
    found = np.array(crew(jobs.counted, n, hood, sizes)[:n])
    forward, backward, told = found.T
    assert (forward == told).all()
    assert backward.sum() == told.sum() > 0


def test_what_needs_nothing_of_others_is_computed_while_the_rest_travels(crew):
    for forward, backward in crew(jobs.order_of_steps, 4, DISC):
        assert forward == ["all_to_all", "forward", "wait", "forward"]
        assert backward == ["backward", "all_to_all", "backward", "wait"]


@pytest.mark.parametrize("exchange", ["halo", "heads"])
def test_compiled_programs_have_no_breaks(crew, exchange):
    hood = DISC if exchange == "halo" else ga.everything(ga.grids.healpix(1), SPHERE)
    assert crew(jobs.compiled, 2, hood)[0] == exchange


def test_no_operand_is_kept_twice(crew):
    """Beside operands and results a call keeps the results at home, and what is at the pieces' borders."""
    for kept, ends in crew(jobs.kept, 4, ga.window(ga.grids.cartesian((40, 40)), 3)):
        assert ends < kept < 1.55 * ends


@pytest.mark.parametrize("name", jobs.SEARCHED)
def test_a_process_keeps_nothing_that_grows_with_the_whole_grid(crew, name):
    """Not the points, nor the trees in which keys are searched: not one number for each token."""
    assert crew(jobs.left, 2, name)[1] < 4


def test_results_repeat_bit_for_bit(crew):
    assert crew(jobs.repeated, 4, DISC) == [True] * 4


@pytest.mark.parametrize(("hood", "heads"), [(DISC, 2), (ga.everything(ga.grids.gaussian(4, 8)), 4)])
def test_second_derivatives_are_right(crew, hood, heads):
    assert max(crew(jobs.second_derivatives, 4, hood, heads)) < 1e-12


def test_shards_and_gathers_are_inverse_and_adjoint(crew):
    crew(jobs.gathered, 4, DISC)
    crew(jobs.gathered, 3, ga.nearest(SPHERE, ga.grids.healpix(4), k=5))


def test_groups_along_one_dimension_of_a_mesh(crew):
    crew(jobs.along_a_mesh, DISC)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("radius", "disagree about the neighborhood"),
        ("grid", "disagree about the neighborhood"),
        ("cut", "disagree about the neighborhood"),
        ("kind", "a partition is of a neighborhood"),
        ("size", "is not for 4 processes"),
        ("foreign cut", "and not of"),
        ("dtype", "disagree about a call of geoattn.parallel.attention"),
        ("heads", "disagree about a call of geoattn.parallel.attention"),
        ("gradient", "disagree about a call of geoattn.parallel.attention"),
        ("scale", "disagree about a call of geoattn.parallel.attention"),
        ("weights", "disagree about a call of geoattn.parallel.attention"),
        ("lse", "disagree about a call of geoattn.parallel.attention"),
        ("relation", "disagree about a call of geoattn.parallel.attention"),
        ("backend", "backend must be a name in geoattn.backends()"),
        ("local", "of a whole tensor take part.shard_queries(q)"),
        ("whole", "of a whole tensor take part.shard_queries(q)"),
        ("mask", "key_mask must be"),
        ("mesh", "take one by its name, mesh['domain']"),
        ("dimensions without names", "take one by its name, one of mesh_dim_names"),
        ("no such dimension", "model"),
        ("gather", "a local tensor on"),
        ("shard", "a tensor on"),
    ],
)
def test_every_process_learns_what_is_wrong(crew, name, told):
    for words in crew(jobs.refused, name):
        assert told in words


def test_what_one_process_refuses_later_is_its_own_affair(crew):
    """The others are in a call that they know, and ask nobody."""
    *others, last = crew(jobs.refused_later, 4, DISC)
    assert others == [[]] * 3
    assert "of a whole tensor take part.shard_queries(q)" in last[0]


def test_a_process_outside_of_the_group_is_told(crew):
    *_others, last = crew(jobs.refused, "member")
    assert "no member of the group" in last


def test_what_the_refusals_name_is_what_all_tests_here_do(crew, refused_by):
    def told(name):
        raise RuntimeError(crew(jobs.refused, name)[-1])

    with refused_by("parallel/attention.py", "of a whole tensor take") as said:
        told("local")
    said.says("part.shard_queries(q)")
    with refused_by("parallel/partition.py", "take one by its name") as said:
        told("mesh")
    said.says("mesh['domain']")
    with refused_by("parallel/partition.py", "the group of all processes is") as said:
        told("no group")
    said.says("torch.distributed.group.WORLD")
