"""The benchmark of the four geometries, at toy size: it trains, keeps what is done, tabulates and draws."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

for module, reason in {
    "lightning": "training stands on Lightning",
    "torch_harmonics": "torch-harmonics is the peer",
    "matplotlib": "the table is drawn",
    "torchmetrics": "panoramas are scored with torchmetrics",
    "xarray": "trajectories are stored with xarray",
}.items():
    pytest.importorskip(module, reason=reason)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SETTINGS = ("plane", "plane-periodic", "sphere-unweighted", "sphere", "torch-harmonics")


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ablation

    small = dataclasses.replace(ablation.ROOMS, nlat=16, nlon=32, training=8, validation=2, test=4)
    ablation.rendered.cache_clear()
    monkeypatch.setattr(ablation, "ROOMS", small)
    monkeypatch.setattr(ablation, "ROOM_MODEL", dataclasses.replace(ablation.ROOM_MODEL, dim=8, depth=1))
    yield ablation
    ablation.rendered.cache_clear()


def run(ablation, monkeypatch, folder, *arguments):
    command = ["ablation.py", "--folder", str(folder), "--output", str(folder / "table.json"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    ablation.main()
    return json.loads((folder / "table.json").read_text())


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_all_settings_train_at_equal_size_and_are_not_trained_again(
    task, ablation, monkeypatch, tmp_path, capfd
):
    arguments = ("--tasks", task, "--seeds", "0", "1", "--steps", "2")
    table = run(ablation, monkeypatch, tmp_path, *arguments)
    rows, name = table[task]["rows"], ablation.HEADLINE[task][0]
    assert tuple(rows) == SETTINGS
    sizes = {setting: row["parameters"]["mean"] for setting, row in rows.items()}
    assert len({sizes[setting] for setting in SETTINGS[:4]}) == 1
    assert sizes["torch-harmonics"] == pytest.approx(
        sizes["sphere"], rel=0.35
    )  # widths at toy size are coarse
    cells = table[task]["cells"]["sphere"]
    assert rows["sphere"][name]["mean"] == pytest.approx((cells[0][name] + cells[1][name]) / 2)
    assert rows["sphere"][name]["spread"] > 0
    assert all(name in scores for scores in table[task]["trivial"].values())
    printed = capfd.readouterr().out
    assert all(f"{task}, {setting}, seed 1" in printed for setting in SETTINGS)
    assert (tmp_path / "table.png").stat().st_size > 1000

    again = run(ablation, monkeypatch, tmp_path, *arguments)
    assert again[task] == table[task]
    assert f"{task}, sphere, seed" not in capfd.readouterr().out


def test_rooms_are_rendered_once_for_all_cells(ablation):
    assert ablation.ROOMS.part("test") is ablation.ROOMS.part("test")
    assert len(ablation.ROOMS.part("test")) == 4
    assert ablation.ROOMS.part("test") is not ablation.ROOMS.part("val")


def test_shallow_water_is_scored_beside_its_peer(ablation, monkeypatch, tmp_path):
    whole = ablation.water_settings

    def small(options, fit):
        settings = whole(options, fit)
        sizes = {"nlat": 24, "nlon": 48, "training": 2, "test": 1, "states": 4}
        data = dataclasses.replace(settings.data, **sizes)
        return dataclasses.replace(settings, data=data, lead_steps=3, long_steps=2)

    monkeypatch.setattr(ablation, "water_settings", small)
    monkeypatch.setattr(ablation, "WATER_FIT", dataclasses.replace(ablation.WATER_FIT, batch_size=4))
    arguments = ("--tasks", "shallow-water", "--settings", "sphere", "torch-harmonics", "--seeds", "0")
    table = run(ablation, monkeypatch, tmp_path, *arguments, "--steps", "2")["shallow-water"]
    for setting, row in table["rows"].items():
        scores = json.loads((tmp_path / "shallow-water" / f"{setting}-0" / "evaluation.json").read_text())
        model, still = (scores[f"test_{name}"]["rmse"]["depth"] for name in ("model", "persistence"))
        ratio = sum(m / s for m, s in zip(model, still, strict=True)) / 3
        assert row["depth, error / persistence"]["mean"] == pytest.approx(ratio)
