"""The examples of each page in docs/ are run as they stand, one after the other."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: what only the site has, whose build checks links to it
MADE = ("reference/", "pictures")
#: a table of tests, without examples
KINDS = DOCS / "kinds.md"


@pytest.mark.parametrize("page", [p for p in PAGES if p != KINDS], ids=lambda page: page.stem)
def test_examples_run_in_order(page, tmp_path, monkeypatch):
    for module in ("xarray", "lightning", "matplotlib"):
        pytest.importorskip(module, reason="the pages read and write data sets, and train")
    monkeypatch.chdir(tmp_path)
    names = {}
    examples = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert examples
    for number, example in enumerate(examples, 1):
        exec(compile(example, f"{page.name}, example {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text()):
        assert (DOCS / target).exists() or target.startswith(MADE), target


def test_every_kind_of_fault_is_held_by_tests_that_exist():
    lines = KINDS.read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and "held by" not in line]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            text = (Path(__file__).parent / file).read_text()
            assert re.search(rf"^def {test}\(", text, flags=re.MULTILINE), f"{file} has no {test}"
