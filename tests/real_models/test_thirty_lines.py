"""Each model of the gallery is at most thirty lines of ours."""

import ast
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("test_*.py"))


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.name != Path(__file__).name], ids=lambda file: file.stem
)
def test_ours_is_at_most_thirty_lines(file):
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.name.startswith("ours")}
    assert lengths, "no function whose name begins with ours"
    assert max(lengths.values()) <= 30, lengths
