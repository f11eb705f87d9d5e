"""The table of what ``backend=None`` tries: complete, and each row says what it stands on."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

import geoattn as ga
from geoattn import backends
from geoattn.backends.defaults import DEFAULTS, NOT_MEASURED, default

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.mark.parametrize("row", DEFAULTS, ids=[row.machine for row in DEFAULTS])
def test_a_row_names_backends_that_there_are_and_a_file_that_justifies_it(row):
    assert row.order[-1] == "reference", "it takes all"
    assert set(row.order) <= set(backends.KNOWN)
    assert row.evidence == NOT_MEASURED or (RESULTS / row.evidence).is_file()


def test_the_table_has_gpus_of_all_makers_and_cpus():
    named = " ".join(row.machine for row in DEFAULTS)
    assert all(kind in named for kind in ("NVIDIA", "AMD", "Apple", "Arm", "x86"))


@pytest.mark.parametrize(
    ("hip", "machine", "tried"),
    [(None, "GPUs of NVIDIA", "cuda"), ("6.4", "GPUs of AMD", "triton")],
)
def test_rocm_is_not_cuda_though_torch_names_both_alike(monkeypatch, hip, machine, tried):
    default.cache_clear()
    monkeypatch.setattr(torch.version, "hip", hip)
    try:
        row = default("cuda")
        assert row.machine == machine
        assert row.order[1] == tried
        assert ("cuda" in row.order) == (hip is None), "CUDA kernels are for NVIDIA"
    finally:
        default.cache_clear()


def test_arm_is_told_from_x86(monkeypatch):
    default.cache_clear()
    try:
        for name, machine in (("aarch64", "Arm CPUs"), ("arm64", "Arm CPUs"), ("x86_64", "x86 CPUs")):
            monkeypatch.setattr(platform, "machine", lambda name=name: name)
            assert default("cpu").machine == machine
            default.cache_clear()
    finally:
        default.cache_clear()


def test_the_table_is_what_is_tried():
    assert backends.AUTOMATIC["cpu"] == default("cpu").order
    assert default("xpu") is None
    assert ga.backends.automatic(torch.empty(0, device="meta")) == ("reference",)
