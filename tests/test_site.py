"""What the documentation site is made of; ``make docs`` builds it, and fails on any warning."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import types
import typing
from pathlib import Path

import pytest
import remedies
import torch

import geoattn as ga
from geoattn._value import KINDS, Value

pytest.importorskip("mkdocs", reason="the site is made by mkdocs")
pytest.importorskip("griffe", reason="the reference is read by griffe")
DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(DOCS))  # as mkdocs does
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
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


def test_notebooks_are_pages_with_their_outputs(site):
    pages = site.notebooks()
    names = {path.stem for path in (DOCS.parent / "notebooks").glob("*.ipynb")}
    assert {f"notebooks/{name}.md" for name in names} == {path for path in pages if path.endswith(".md")}
    text = pages["notebooks/neighborhoods_and_plans.md"]
    assert "```text\ngeodesic discs of 7° on" in text
    pictures = re.findall(r"\]\((\S+\.png)\)", text)
    assert len(pictures) == 5
    assert all(pages[f"notebooks/{name}"].startswith(b"\x89PNG") for name in pictures)


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


@pytest.fixture(scope="module")
def gallery(site):
    """Every entry with what its code makes, by page and name."""
    entries = {(page, name): e for page, (*_, es) in site.pictured.PAGES.items() for name, e in es.items()}
    return {place: (entry, site.pictured.run(entry.code)) for place, entry in entries.items()}


def test_every_public_grid_neighborhood_and_relation_is_in_the_gallery(gallery):
    codes = {page: [e.code for (path, _), (e, _) in gallery.items() if path == page] for page, _ in gallery}
    for part, page, prefix in (
        (ga.neighborhoods, "pictures.md", "ga."),
        (ga.grids, "pictures-grids.md", "ga.grids."),
        (ga.relations, "pictures-relations.md", "ga.relations."),
    ):
        makers = [name for name in part.__all__ if makes_values(getattr(part, name))]
        assert len(makers) >= 5, makers
        for name in makers:
            assert any(f"{prefix}{name}(" in code for code in codes[page]), f"{prefix}{name} is not in {page}"


def makes_values(part):
    """Whether a public name is a function that makes grids, neighborhoods or relations."""
    if not inspect.isfunction(part):
        return False
    told = typing.get_type_hints(part)["return"]
    kinds = typing.get_args(told) if typing.get_origin(told) in (types.UnionType, typing.Union) else (told,)
    bases = (ga.grids.Grid, ga.neighborhoods.Neighborhood, ga.relations.Relation, ga.grids.Patches)
    return any(inspect.isclass(kind) and issubclass(kind, bases) for kind in kinds)


#: what one of several processes computes, made by ga.parallel
OF_PROCESSES = {"known", "selection", "selected", "relation_selected"}


def test_every_kind_is_in_the_gallery(gallery):
    shown = set()
    for _, values in gallery.values():
        found = [v for v in values.values() if isinstance(v, Value)]
        shown |= {c.kind for value in found for c in value.classes_within()}
    bases = (ga.grids.Grid, ga.neighborhoods.Neighborhood, ga.relations.Relation)
    ours = [kind for kind in KINDS if KINDS.claim(kind).owner == "geoattn"]
    wanted = {kind for kind in ours if issubclass(KINDS[kind], bases)}
    assert wanted - shown == OF_PROCESSES


def test_every_real_model_is_in_the_gallery_with_a_link_to_its_test(site):
    models = site.pictured.MODELS
    folder = DOCS.parent / "tests" / "real_models"
    files = {path.stem.removeprefix("test_") for path in folder.glob("test_*.py")} - {"thirty_lines"}
    assert len(files) > 10
    for name in files:
        assert f"(../tests/real_models/test_{name}.py)" in models[name].words, name


def test_pictures_of_the_gallery_are_small_and_come_with_code_and_cost(site):
    pytest.importorskip("matplotlib")
    names = [name for *_, entries in site.pictured.PAGES.values() for name in entries]
    assert len(names) == len(set(names)), "pictures are files of one folder"
    for path in ("pictures.md", "pictures-relations.md"):
        text = site.pictured.page(path)
        for name, made in site.pictured.made(path).items():
            entry = site.pictured.PAGES[path][2][name]
            assert made.picture.startswith(b"\x89PNG")
            assert len(made.picture) < 120_000, (name, len(made.picture))
            assert f"![{entry.title}](pictures/{name}.png)" in text
            assert entry.code in text
            assert made.cost in text


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
