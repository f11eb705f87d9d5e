"""The examples of each page in docs/ are run as they stand, one after the other."""

import importlib
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.glob("*.md"))
#: what only the site has, whose build checks links to it
MADE = ("reference/", "pictures", "notebooks/")
#: an example, and the package of others that it needs
EXAMPLE = r"^(?:<!-- needs: (\w+) -->\n```py|```python)\n(.*?)^```"
#: a table of tests
KINDS = DOCS / "kinds.md"
#: pages without examples
TABLES = (KINDS, *(DOCS / f"{name}.md" for name in ("compare", "performance", "results")))


@pytest.mark.parametrize("page", [p for p in PAGES if p not in TABLES], ids=lambda page: page.stem)
def test_examples_run_in_order(page, tmp_path, monkeypatch):
    for module in ("xarray", "lightning", "matplotlib"):
        pytest.importorskip(module, reason="the pages read and write data sets, and train")
    monkeypatch.chdir(tmp_path)
    names = {}
    examples = re.findall(EXAMPLE, page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert any(not package for package, _ in examples)
    for number, (package, example) in enumerate(examples, 1):
        if not package or can_be_imported(package):
            exec(compile(example, f"{page.name}, example {number}", "exec"), names)


def can_be_imported(package):
    """Whether a package is here and whole: timm is, without a torchvision that it imports."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text()):
        assert (DOCS / target).exists() or target.startswith(MADE), target


def test_the_files_and_commands_of_the_evidence_exist():
    root, text = DOCS.parent, (DOCS / "evidence.md").read_text()
    named = re.findall(r"`((?:tests|benchmarks|geoattn)/[\w/.]+)`|`python (benchmarks/\w+\.py)", text)
    assert len(named) > 20
    for path in filter(None, (part for pair in named for part in pair)):
        assert (root / path).exists(), path
    for target in re.findall(r"`make (\w+)`", text):
        assert f"\n{target}:" in (root / "Makefile").read_text(), target


def test_the_page_of_results_has_the_tables_of_its_files(monkeypatch):
    benchmarks = DOCS.parent / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    pages = importlib.import_module("pages")
    text, written = (DOCS / "results.md").read_text(), {}
    writers = {"equivariance": "equivariance", "shallow_water": "shallow_water", "ablation": "ablation_table"}
    for name, module in writers.items():
        content = json.loads((benchmarks / "results" / f"{name}.json").read_text())
        written |= importlib.import_module(module).tables(content)
    assert {name for _, name, _ in pages.MARKED.findall(text)} == set(written)
    assert pages.filled(text, written) == text


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
