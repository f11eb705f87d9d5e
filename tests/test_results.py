"""Results of benchmarks say how they came about."""

import json
import re
from pathlib import Path

import pytest

import geoattn as ga

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_names_the_command_that_makes_it(path):
    command = json.loads(path.read_text())["command"]
    program = re.match(r"python (benchmarks/\w+\.py)", command)
    assert program, command
    text = (ROOT / program[1]).read_text()
    assert "RESULTS" in text or "FOLDER" in text  # it writes results, and is not another's helper


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_when_it_was_measured(path):
    """The whole file, or each of its parts."""
    assert re.search(r'"date": "\d{4}-\d\d-\d\d"', path.read_text())


def test_what_plans_leave_of_work_is_json(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import plans

    monkeypatch.setattr(plans, "CASES", {"a line": lambda: ga.window(ga.grids.cartesian(512), 33)})
    rows = json.loads(json.dumps(plans.measure_statistics()))
    assert [row["useful_pairs"] for row in rows] == [512 * 33] * 2


def test_the_head_of_a_result(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from about import about

    head = about("python benchmarks/some.py", "numba", "no-such-package")
    assert list(head) == ["command", "date", "machine", "versions", "threads", "load"]
    assert head["versions"]["no-such-package"] == "not installed"
    assert {"python", "geoattn", "torch", "numpy", "numba"} <= head["versions"].keys()
    assert "cores" in head["machine"]
