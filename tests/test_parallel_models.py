"""Whole models over several processes give what they give on one."""

from __future__ import annotations

import parallel_model_jobs as jobs
import pytest
import torch
import torch.distributed as dist

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.usefixtures("on_the_reference"),
]


KINDS = [kind for kind in jobs.CONFIGS if kind != "small"]


def check(errors, most=1.0):
    assert not {name: e for name, e in errors.items() if not e <= most}


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_what_they_are_on_one_process(crew, kind):
    """Cut well among four; cut at random among three, of which one holds nothing."""
    check(crew(jobs.alike, 4, kind, torch.float64, False, kind == "transformer")[0])
    check(crew(jobs.alike, 3, kind, torch.float64, True, False)[0])


@pytest.mark.parametrize("kind", ["transformer", "stages", "meshes"])
def test_single_precision_keeps_what_it_has(crew, kind):
    check(crew(jobs.alike, 2, kind, torch.float32, False, False)[0])


@pytest.mark.parametrize("wrapped", ["fsdp", "checkpoint", "compile"])
def test_it_composes(crew, wrapped):
    check(crew(jobs.alike, 2, "small", torch.float64, False, False, wrapped)[0])


@pytest.mark.parametrize("kind", jobs.GROWING)
def test_a_process_keeps_its_part_of_a_model(crew, kind):
    """And of whole grids who holds each point, two bytes: no points, features, trees or tables."""
    assert crew(jobs.left, 2, kind)[1] < 4


def test_data_and_domain_under_ddp(crew):
    check(crew(jobs.on_a_mesh)[3], 1e-12)


def test_a_sample_is_left_out_on_all_processes_or_on_none(crew):
    first, *others = crew(jobs.dropped)
    assert others == [first] * 3
    assert set(first) == {0.0, 2.0}


def test_a_model_of_ones_own_is_divided_once_it_says_that_it_may(crew):
    for told, error in crew(jobs.of_ones_own):
        assert "Mixer.tokenwise = True" in told
        assert error < 1e-12


def test_what_the_refusals_name_is_what_all_tests_here_do(crew, refused_by):
    def told(name):
        raise RuntimeError(crew(jobs.refused, name)[-1])

    with refused_by("parallel/parallelize.py", "to estimate for as many") as said:
        told("number")
    hood = jobs.DISC
    assert said.run("geoattn.parallel.partition(hood, n)", hood=hood, n=4).n == 4
    with refused_by("parallel/parallelize.py", "which may move information between tokens") as said:
        told("norm")
    said.says("LayerNorm.tokenwise = True")
    with refused_by("models/config.py", "fields must have shape") as said:
        told("whole")
    said.says("model.shards.shard(fields)")
    with refused_by("parallel/shards.py", "say whose points are meant") as said:
        told("grid")
    said.says("grid=…")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("number", "to estimate for as many processes"),
        ("model", "a model is a torch.nn.Module"),
        ("nothing", "there is nothing to divide"),
        ("norm", "1 is a LayerNorm, which may move information between tokens"),
        ("convolution", "1 is a Conv2d, which may move information between tokens"),
        ("twice", "on many processes already"),
        ("disagree", "disagree about the model"),
        ("cut", "is not for 4 processes"),
        ("whole", "of whole fields take model.shards.shard(fields)"),
        ("grid", "say whose points are meant"),
    ],
)
def test_every_process_learns_what_is_wrong(crew, name, told):
    for words in crew(jobs.refused, name):
        assert told in words
