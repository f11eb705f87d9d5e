"""The README's examples are run as they stand."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_it_is_a_page_and_a_half_with_one_picture_and_two_commands():
    assert len(README.splitlines()) <= 110
    assert len(re.findall(r"!\[", README)) == 1
    assert len(EXAMPLES) == 2
    assert "make demo" in README
    assert "make test" in README


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
