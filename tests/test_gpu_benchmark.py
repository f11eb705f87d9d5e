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


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def gpu():
    import gpu

    return gpu


@pytest.fixture
def reports():
    import gpu_report

    return gpu_report


@pytest.fixture
def clock():
    import gpu_clock

    return gpu_clock


def made_up(dim, pattern, ours, peers, raw=1e12, how="graph"):
    """A record as a device might leave it; the numbers are invented for these tests."""

    def seconds(x):
        return {"forward": x, "backward": 2 * x, "timed by": {"forward": how, "backward": how}}

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
        "seconds": {"geoattn, cuda": seconds(ours), **{name: seconds(x) for name, x in peers.items()}},
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
    assert len(set(names)) == len(names) == 14 * 2
    assert {case.dim for case in gpu.CASES} == {64, 128}
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


def test_operands_take_turns_over_more_than_a_cache_holds(clock):
    for size in (1000, 10**6, 10**9):
        assert clock.copies(size) >= 2
        assert clock.copies(size) * size >= clock.ROTATED


def test_targets_are_reached_missed_or_not_measured(reports):
    others = {"torch-harmonics": 9e-2, "FlexAttention, our order": 0.9e-3, "geoattn, triton": 2e-3}
    fast = made_up(64, "sphere 361×720, 7°", 1e-3, others, raw=5e11)
    states = dict(reports.targets(report(fast)))
    assert states["forward ≥ 200 useful TFLOP/s, sphere 361×720, 7°, head dim 64"] == "reached: 250"
    assert states["forward ≥ 270 useful TFLOP/s, sphere 361×720, 7°, head dim 128"] == "not measured"
    assert states["backward ≥ 0.55 of forward, every case"] == "reached: 1"
    assert states["forward ≥ 100× torch-harmonics, every sphere"] == "missed: 90"
    assert states["forward ≥ 1× FlexAttention, our order, every case"] == "missed: 0.9"
    assert states["forward ≥ 1× NATTEN, every case"] == "not measured"
    assert states["first forward call, cold, at most 2 s"] == "not measured"
    timed = {**report(fast), "first calls": {"64": {"cold": [1.5, 1.0], "cached": [0.06, 0.1]}}}
    states = dict(reports.targets(timed))
    assert states["first forward call, cold, at most 2 s"] == "reached: 1.5 s"
    assert states["first forward call, cached, at most 0.05 s"] == "missed: 0.06 s"


def test_the_faster_of_our_backends_is_held_against_the_targets(reports):
    record = made_up(64, "sphere 361×720, 7°", 1e-3, {"geoattn, triton": 0.5e-3}, raw=2e11)
    assert reports.ours(record) == "geoattn, triton"
    states = dict(reports.targets(report(record)))
    assert states["forward ≥ 200 useful TFLOP/s, sphere 361×720, 7°, head dim 64"] == "reached: 200"


def test_the_table_shows_ratios_rates_prediction_and_reasons(reports):
    text = reports.table(report(made_up(64, "plane", 2e-3, {"dense flash": 1e-2}, 1e12)))
    assert "dense flash" in text
    assert "5.00x" in text
    assert "500 raw TFLOP/s, 71% of the matrix product" in text
    assert "predicted 10.0x by tiles, 20.0x by groups; measured 5.0x" in text
    assert "without torch-harmonics: Absent: made up" in text
    assert "*" not in text
    timed_otherwise = made_up(64, "plane", 2e-3, {}, how="events, since a graph was not possible: made up")
    assert "ms*" in reports.table(report(timed_otherwise))


def test_a_case_without_our_own_time_is_still_shown(reports):
    record = made_up(64, "plane", 2e-3, {"dense flash": 1e-2})
    del record["seconds"]["geoattn, cuda"]
    assert "measured not measured" in reports.table(report(record))


def test_report_and_picture_are_written(reports, tmp_path):
    pytest.importorskip("matplotlib")
    content = report(made_up(64, "plane", 2e-3, {"dense flash": 1e-2, "FlexAttention": 3e-3}))
    reports.save(content, tmp_path / "gpu.json")
    assert json.loads((tmp_path / "gpu.json").read_text()) == content
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    reports.draw(content, tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


class Recorder:
    """Stands in for ``torch.cuda`` as the clock uses it: what runs under capture and what replays."""

    def __init__(self, refuse=False):
        self.captured, self.capturing, self.refuse = [], False, refuse

    def __call__(self, word):
        (self.captured if self.capturing else []).append(word)

    def install(self, monkeypatch):
        recorder = self

        class Context:
            def __init__(self, *_, **__):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_):
                return None

        class Capture(Context):
            def __enter__(self):
                if recorder.refuse:
                    raise RuntimeError("made-up refusal")
                recorder.capturing = True

            def __exit__(self, *_):
                recorder.capturing = False

        class Graph:
            def replay(self):
                pass

        class Event:
            def __init__(self, **_):
                pass

            def record(self):
                pass

            def elapsed_time(self, _):
                return 4.0

        class Stream:
            def wait_stream(self, _):
                pass

        fakes = {"CUDAGraph": Graph, "graph": Capture, "Event": Event, "Stream": Stream, "stream": Context}
        fakes |= {"synchronize": lambda: None, "current_stream": Stream}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)


@pytest.mark.parametrize("refuse", [False, True])
def test_each_direction_is_captured_by_itself_and_shared_among_the_sets(clock, monkeypatch, refuse):
    recorder = Recorder(refuse)
    recorder.install(monkeypatch)
    monkeypatch.setattr(clock, "BUDGET", 0.0)

    def call(q, k, v):
        recorder("forward with gradients" if q.requires_grad else "forward")
        out = q * k * v
        if out.requires_grad:
            out.register_hook(lambda _: recorder("backward"))
        return out

    sets = [[torch.randn(3) for _ in range(4)] for _ in range(2)]
    found = clock.times(call, sets)
    assert found["forward"] == found["backward"] == 0.002  # of two sets, 4 ms together
    if refuse:
        assert recorder.captured == []
        assert "made-up refusal" in found["timed by"]["forward"]
        assert found["timed by"]["backward"] != "graph"
    else:
        assert recorder.captured == ["forward", "forward", "backward", "backward"]
        assert found["timed by"] == {"forward": "graph", "backward": "graph"}


def test_what_differs_from_the_reference_is_not_timed(gpu, monkeypatch):
    assert gpu.wrong({"a": {"x": 1e-3}, "b": {"x": 1e-3, "y": 0.5}, "c": {"x": "RuntimeError"}}) == ("b", "c")
    monkeypatch.setattr(gpu, "rotated", lambda *_: [[torch.zeros(1)] * 4])
    monkeypatch.setattr(gpu, "times", lambda *_: {"forward": 1.0})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    made = dict.fromkeys(("geoattn, cuda", "geoattn, triton"), lambda case, hood: lambda q, k, v: q + 1)
    monkeypatch.setattr(gpu.peers, "OURS", made)
    for others in ("SAME", "DENSE"):
        monkeypatch.setattr(gpu.peers, others, {})
    case = gpu.Case("small", lambda: ga.window(ga.grids.cartesian((8, 8)), 3), 64)
    record = gpu.measure(case, ("geoattn, cuda",))
    assert list(record["seconds"]) == ["geoattn, triton"]
    assert "differ from the reference" in record["absent"]["geoattn, cuda"]


def test_the_kernels_of_the_ceilings_compile():
    pytest.importorskip("cuda.bindings.nvrtc")
    import gpu_ceilings

    for capability in (80, 90, 100):
        code = gpu_ceilings.machine_code(capability)
        assert b"products" in code
        assert b"reads" in code


def on_a_made_up_device(gpu, monkeypatch, folder, measure, *options):
    import gpu_report

    monkeypatch.setattr(gpu, "RESULTS", folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu.ga, "backends", dict)
    limits = {"bytes per second": 3e12, "flops per second": 7e14, "cached bytes per second": "not measured"}
    monkeypatch.setattr(gpu, "ceilings", lambda: limits)
    monkeypatch.setattr(gpu, "errors", lambda backend: {"disc": 1e-3})
    monkeypatch.setattr(gpu, "sanitized", lambda: {"not run": "made up"})
    monkeypatch.setattr(gpu, "first_calls", dict)
    monkeypatch.setattr(gpu_report, "draw", lambda report, path: path.write_bytes(b"picture"))
    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu.py", *options])
    assert gpu.main() == 0


def test_a_case_that_fails_is_recorded_and_the_others_are_measured(gpu, monkeypatch, tmp_path):
    def measure(case, left_out):
        if "13×13" in case.name:
            raise RuntimeError("made-up trouble")
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert len(found["cases"]) == len(gpu.CASES) - 2
    assert len(found["left out"]) == 2
    assert all("RuntimeError: made-up trouble" in reason for reason in found["left out"])
    assert (tmp_path / "gpu.png").exists()


def test_results_are_kept_after_each_case(gpu, monkeypatch, tmp_path):
    """Whoever ends the run at any time finds all cases that were done before."""
    kept = []

    def measure(case, left_out):
        file = tmp_path / "gpu.json"
        kept.append(len(json.loads(file.read_text())["cases"]) if file.exists() else 0)
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure)
    assert kept == list(range(len(gpu.CASES)))


def test_some_of_the_cases_do_not_replace_the_results_of_all(gpu, monkeypatch, tmp_path):
    def measure(case, left_out):
        return made_up(case.dim, case.pattern, 1e-3, {})

    on_a_made_up_device(gpu, monkeypatch, tmp_path, measure, "--case", "HEALPix 64")
    assert {path.name for path in tmp_path.iterdir()} == {"gpu-part.json", "gpu-part.png"}


def test_cases_beyond_the_time_are_named(gpu, monkeypatch, tmp_path):
    on_a_made_up_device(gpu, monkeypatch, tmp_path, None, "--minutes", "0")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["left out"] == [case.name for case in gpu.CASES]


def test_a_picture_of_no_case_is_drawn_too(reports, tmp_path):
    pytest.importorskip("matplotlib")
    reports.draw(report(), tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_so():
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.strip() == "benchmarks/gpu.py needs a CUDA device, and torch finds none"
