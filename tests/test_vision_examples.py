"""The examples of segmentation and depth, as a user runs them, at toy size."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="the examples train with Lightning")
pytest.importorskip("matplotlib", reason="the examples draw")

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "score"), [("segmentation", "area_mean_iou"), ("depth", "area_abs_rel")])
def test_example_trains_scores_and_draws(name, score, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--output", str(tmp_path), "--rows", "6", "--rooms", "20", "--steps", "4"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert capsys.readouterr().out.count(score) == len(scores["test"]) > 1
    assert scores["robustness"]["model"]["angle"] == [0.0, 30.0, 60.0, 90.0]
    assert len(scores["robustness"]["model"][score]) == 4
    for picture in ("panoramas.png", "sphere.png", "robustness.png", "learning.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()
