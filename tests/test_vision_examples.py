"""The examples of segmentation and depth, as a user runs them, at toy size."""

import importlib.util
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
    assert capsys.readouterr().out.count(score) == 2
    for picture in ("panoramas.png", "curves.png", "learning.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.csv").exists()
