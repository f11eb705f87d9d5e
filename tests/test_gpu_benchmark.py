"""The parts of the GPU benchmark that need no device: cases, accounting, report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.plans import plan
from geoattn.plans.expand import masks, visited

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    return gpu


def made_up(dim, pattern, ours, peers, raw=1e12):
    """A record as a device might leave it; the numbers are invented for these tests."""

    def seconds(x):
        return {"forward": x, "both": 3 * x, "backward": 2 * x}

    return {
        "case": f"{pattern}, head dim {dim}",
        "pattern": pattern,
        "dim": dim,
        "work": {
            "pairs": 1000,
            "useful": {"forward": raw / 2, "backward": raw},
            "raw": {"forward": raw, "backward": 2.5 * raw},
            "predicted gain over dense": {"tiles": 10.0, "groups": 20.0},
        },
        "seconds": {"geoattn": seconds(ours), **{name: seconds(x) for name, x in peers.items()}},
        "absent": {"torch-harmonics": "Absent: made up"},
    }


def report(*records):
    return {
        "device": "made up",
        "date": "2000-01-01",
        "limits": {"bytes per second": 3e12, "flops per second": 7e14},
        "cases": list(records),
    }


def test_every_pattern_comes_at_every_head_dim_once(gpu):
    names = [case.name for case in gpu.CASES]
    assert len(set(names)) == len(names) == 15 * 3
    assert {case.dim for case in gpu.CASES} == {32, 64, 128}
    assert all(case.heads * case.dim == 256 for case in gpu.CASES)
    assert {case.pattern for case in gpu.CASES} >= gpu.QUICK


def test_work_agrees_with_counting_pairs_and_groups(gpu):
    hood = ga.geodesic(ga.grids.equiangular(13, 24), radius=20.0)
    work = gpu.work(hood, heads=2, dim=32)

    def computed(hood):
        laid_out = plan(hood, 64, 64)
        count = 0
        for tile in range(len(laid_out.tile_class)):
            entries, _ = visited(laid_out, tile)
            seen = masks(laid_out, entries).reshape(len(entries), 4, 16, 8, 8)
            count += 128 * int(seen.any(axis=(2, 4)).sum())
        return count

    pairs, rows, columns = int(hood.counts.sum()), computed(hood), computed(hood.transpose())
    assert work["useful"] == {"forward": 2 * 4 * pairs * 32, "backward": 2 * 10 * pairs * 32}
    assert work["raw"]["forward"] == 2 * 4 * rows * 32
    # of seven products that run, five count; each multiplies and adds once per pair and channel
    run = 2 * 2 * (3 * rows + 4 * columns) * 32
    assert np.isclose(work["raw"]["backward"], run * 5 / 7)


def test_operands_take_turns_over_more_than_a_cache_holds(gpu):
    for size in (1000, 10**6, 10**9):
        assert gpu.copies(size) >= 2
        assert gpu.copies(size) * size >= gpu.ROTATED


def test_targets_are_reached_missed_or_not_measured(gpu):
    fast = made_up(64, "sphere 361×720, 7°", 1e-3, {"torch-harmonics": 4e-2, "FlexAttention": 0.9e-3}, 3e11)
    states = dict(gpu.targets(report(fast)))
    assert states["forward ≥ 220 raw TFLOP/s at head dim 64, best case"] == "reached: 300"
    assert states["forward ≥ 280 raw TFLOP/s at head dim 128, best case"] == "not measured"
    assert states["forward ≥ 30× torch-harmonics, sphere 361×720, 7°"] == "reached: 40"
    assert states["forward ≥ 1× FlexAttention, every case"] == "missed: 0.9"
    assert states["first forward call, cold, at most 2 s"] == "not measured"
    timed = {**report(fast), "first calls": {"64": {"cold": [1.5, 1.0], "cached": [0.06, 0.1]}}}
    states = dict(gpu.targets(timed))
    assert states["first forward call, cold, at most 2 s"] == "reached: 1.5 s"
    assert states["first forward call, cached, at most 0.05 s"] == "missed: 0.06 s"


def test_the_table_shows_ratios_rates_prediction_and_reasons(gpu):
    text = gpu.table(report(made_up(64, "plane", 2e-3, {"dense flash": 1e-2}, 1e12)))
    assert "dense flash" in text
    assert "5.00x" in text
    assert "500 raw TFLOP/s, 71% of the matrix product" in text
    assert "predicted 10.0x by tiles, 20.0x by groups; measured 5.0x" in text
    assert "without torch-harmonics: Absent: made up" in text


def test_a_case_without_our_own_time_is_still_shown(gpu):
    record = made_up(64, "plane", 2e-3, {"dense flash": 1e-2})
    del record["seconds"]["geoattn"]
    assert "measured not measured" in gpu.table(report(record))


def test_report_and_picture_are_written(gpu, tmp_path):
    pytest.importorskip("matplotlib")
    content = report(made_up(64, "plane", 2e-3, {"dense flash": 1e-2, "FlexAttention": 3e-3}))
    gpu.save(content, tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    gpu.draw(content, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def on_a_made_up_device(gpu, monkeypatch, folder, measure, *options):
    monkeypatch.setattr(gpu, "RESULTS", folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu.ga, "backends", dict)
    monkeypatch.setattr(gpu, "limits", lambda: {"bytes per second": 3e12, "flops per second": 7e14})
    monkeypatch.setattr(gpu, "first_calls", dict)
    monkeypatch.setattr(gpu, "draw", lambda report, path: path.write_bytes(b"picture"))
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu.py", *options])
    assert gpu.main() == 0


def test_a_case_that_fails_is_recorded_and_the_others_are_measured(gpu, monkeypatch, tmp_path):
    def measure(case):
        if "13×13" in case.name:
            raise RuntimeError("made-up trouble")
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["cases"]) == len(gpu.CASES) - 3
    assert len(found["left out"]) == 3
    assert all("RuntimeError: made-up trouble" in reason for reason in found["left out"])
    assert (tmp_path / "gpu.png").exists()


def test_results_are_kept_after_each_case(gpu, monkeypatch, tmp_path):
    """Whoever ends the run at any time finds all cases that were done before."""
    kept = []

    def measure(case):
        file = tmp_path / "gpu.json"
        kept.append(len(json.loads(file.read_text())["cases"]) if file.exists() else 0)
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure)
    assert kept == list(range(len(gpu.CASES)))


def test_some_of_the_cases_do_not_replace_the_results_of_all(gpu, monkeypatch, tmp_path):
    def measure(case):
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure, "--case", "HEALPix 64")
    assert {path.name for path in tmp_path.iterdir()} == {"gpu-part.json", "gpu-part.png"}


def test_cases_beyond_the_time_are_named(gpu, monkeypatch, tmp_path):
    on_a_made_up_device(gpu, monkeypatch, tmp_path, None, "--minutes", "0")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left out"] == [case.name for case in gpu.CASES]


def test_a_picture_of_no_case_is_drawn_too(gpu, tmp_path):
    pytest.importorskip("matplotlib")
    gpu.draw(report(), tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_so():
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.strip() == "benchmarks/gpu.py needs a CUDA device, and torch finds none"
