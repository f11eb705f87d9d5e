"""What the documentation site is made of; ``make docs`` builds it, and fails on any warning."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import remedies
import torch

import geoattn as ga

pytest.importorskip("mkdocs", reason="the site is made by mkdocs")
pytest.importorskip("griffe", reason="the reference is read by griffe")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_message_has_an_entry(site):
    listed = site.refusals()
    for found in remedies.refusals():
        words = re.sub(r"\{[^{}]*\}", "…", found.text).strip().replace("`", "'")
        assert len(words) <= 12 or words in listed, found


def test_every_public_name_is_in_the_reference(site):
    text = "\n".join(site.reference().values())
    for part in (ga, *(importlib.import_module(f"geoattn.{name}") for name in site.PARTS)):
        for name in part.__all__:
            if not inspect.ismodule(getattr(part, name)):
                assert f"{part.__name__}.{name}" in text, name


def test_the_parts_of_the_reference_are_those_of_the_package(site):
    modules = {name for name in dir(ga) if inspect.ismodule(getattr(ga, name))}
    assert modules - set(site.PARTS) == {"compat", "tasks", "commands"}  # of its names, and the command line


def test_links_lead_to_pages_and_to_copies_of_sources(site):
    led = site.on_page_markdown(
        "[a](../README.md#two-commands) [b](xarray.md) [c](../geoattn/plans/base.py) [d](../tests)",
        type("Page", (), {"file": type("File", (), {"src_uri": "gallery.md"})}),
        None,
        None,
    )
    assert led == "[a](overview.md#two-commands) [b](xarray.md) [c](sources/geoattn/plans/base.py.txt) [d]"
    assert site.linked("[c](../geoattn/plans/base.py)", "gallery.md") == {"geoattn/plans/base.py"}
    assert site.linked("[c](docs/xarray.md) [d](cuda/forward.cu)", "overview.md") == {"cuda/forward.cu"}


def test_a_link_that_leads_nowhere_is_a_warning(site, caplog):
    page = type("Page", (), {"file": type("File", (), {"src_uri": "gallery.md"})})
    site.on_page_markdown("[a](../geoattn/plans/base.py)", page, None, None)
    assert not caplog.records
    site.on_page_markdown("[a](../geoattn/plans/no_such_file.py)", page, None, None)
    assert "no_such_file" in caplog.text


def test_pictures_come_with_code_that_makes_them(site):
    pytest.importorskip("matplotlib")
    text = site.gallery()
    for name, (title, code, picture) in site.pictures().items():
        assert picture.startswith(b"\x89PNG")
        assert f"![{title}](pictures/{name}.png)" in text
        assert code in text


def test_the_tables_of_backends_say_what_real_calls_are_told(site):
    grid = ga.grids.gaussian(8, 16)
    for name in ("cpu", "reference", "sdpa", "flex", "cuda"):
        for words, call in site.features():
            hood = ga.everything(grid) if call.get("everything") else ga.geodesic(grid, radius=30)
            shape = (1, grid.size, 2, call.get("dim", 32))
            q = torch.zeros(shape, dtype=call.get("dtype", torch.float32))
            k = q[:, :, : call.get("kv_heads", 2)]
            relation = ga.relations.edges(hood) if call.get("relation") else None
            told = site.declared(name, "cpu", **call)
            actual = ga.backends.refusal(name, q, k, k, hood, relation)
            assert told == actual, (name, words)
    text = site.backends()
    assert re.search(r"^\| cpu \| sdpa, cpu, reference \| yes \| yes \|", text, re.MULTILINE)
    assert "it computes every pair" in text
