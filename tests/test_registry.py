"""Kinds are one class each and found in any process; names are given once, and taken by nobody else."""

from __future__ import annotations

import ast
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray

import geoattn as ga
from geoattn import backends
from geoattn._registry import Registry
from geoattn._value import KINDS, Value
from geoattn.backends.reference import Reference
from geoattn.grids import recognisers

PACKAGE = Path(ga.__file__).parent
GRID = ga.grids.gaussian(4, 8)


def kinds_in_the_source() -> dict[str, str]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(("geoattn", *path.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                for keyword in node.keywords:
                    if keyword.arg == "kind":
                        found[keyword.value.value] = f"{module}:{node.name}"
    return found


def test_every_kind_of_ours_is_listed_where_it_is():
    ours = {kind: str(KINDS.claim(kind)) for kind in KINDS if KINDS.claim(kind).owner == "geoattn"}
    assert ours == kinds_in_the_source(), "KINDS in geoattn/_value.py lists every kind and its place"


def one_of_each_kind() -> list[Value]:
    """A value of every kind: a new kind wants a line here."""
    from geoattn.grids import patches
    from geoattn.models import EncoderDecoderConfig, TransformerConfig
    from geoattn.neighborhoods.known import known
    from geoattn.neighborhoods.selected import selected
    from geoattn.nn import Angles, Continuous, Directional, Fourier, Harmonic, Offsets, Rotary
    from geoattn.relations.selected import Selected
    from geoattn.xarray import Moments, Schema, Statistics

    plane = ga.grids.cartesian((4, 6))
    points = ga.grids.points([10.0, -50.0, 80.0, 0.0], [0.0, 90.0, 200.0, 300.0])
    edges = ga.from_edges(points, points, [0, 1, 2, 3, 4], [1, 2, 3, 0])
    disc = ga.geodesic(GRID, radius=30.0)
    coords = {"lat": GRID.lat[:, 0], "lon": GRID.lon[0]}
    schema = Schema.of(xarray.Dataset({"t": (("lat", "lon"), GRID.lat)}, coords))
    moments = Moments(*(np.ones(1) for _ in range(5)), np.array([32]))
    some = selected(disc, np.arange(5), np.arange(20)[::-1])
    return [
        plane,
        GRID,
        points,
        patches(ga.grids.equiangular(6, 12, poles=False), 2).grid,
        ga.grids.equiangular(5, 8),
        ga.grids.lobatto(5, 8),
        ga.grids.latlon(np.array([-60.0, 0.0, 45.0]), np.arange(6) * 60.0),
        ga.grids.healpix(2),
        ga.grids.icosahedral(1),
        ga.grids.cubed_sphere(3),
        ga.grids.reduced_gaussian("O32"),
        ga.grids.regional([10.0, 20.0], [0.0, 10.0, 20.0]),
        ga.grids.regional([[10.0, 11.0], [20.0, 22.0]], [[0.0, 10.0], [0.0, 11.0]]),
        ga.grids.regional([10.0], [5.0], ([[0.0, 0.0, 20.0]], [[0.0, 10.0, 5.0]])),
        ga.grids.union(
            ga.grids.regional([10.0, 20.0], [0.0, 10.0]), ga.grids.regional([10.0, 20.0], [40.0, 50.0])
        ),
        ga.grids.product(ga.grids.cartesian((3,)), GRID),
        disc,
        edges,
        ga.everything(GRID),
        ga.nearest(points, GRID, k=2),
        ga.nearest(points, GRID, k=2).transpose(),
        ga.window(plane, 3),
        ga.window(plane, 3, key_grid=plane, origin=1, boundary="clip"),
        ga.curve_window(plane, 5),
        ga.heads(disc, ga.everything(GRID)),
        ga.k_hop(ga.grids.icosahedral(1), 2),
        ga.union(disc, ga.everything(GRID)),
        ga.product(ga.window(ga.grids.cartesian((3,)), 3), disc),
        disc.without_keys(GRID.lat > 0),
        known(ga.nearest(GRID, k=4), *(np.arange(n, dtype=np.int32) for n in (5, GRID.size))),
        some,
        some.key_grid,
        ga.parallel.cut(disc, 2),
        ga.relations.edges(disc),
        Selected(some, ga.relations.edges(disc)),
        ga.relations.labels(edges, [2, 0, 1, 0]),
        ga.relations.offsets(ga.window(plane, 3), by=0),
        ga.relations.angles(disc, 3, sectors=4),
        ga.relations.product(ga.relations.edges(ga.window(plane, 3)), ga.relations.angles(disc, 3)),
        ga.relations.edges(disc).transpose(),
        ga.relations.edges(disc).on(disc.without_keys(GRID.lat > 0)),
        Angles(8),
        Continuous(),
        Offsets(by=(1,)),
        Harmonic(3),
        Directional(),
        Fourier(),
        Rotary(),
        TransformerConfig(GRID, disc, 2, 2, position=Harmonic(2)),
        EncoderDecoderConfig(GRID, (disc,), 2, 2, dims=(8,), depths=(1,), num_heads=(1,), patches=None),
        schema,
        schema.variables[0],
        moments,
        Statistics(schema, moments, moments, 1, "first", "last", 2, "none"),
    ]


def fresh(program: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_value_of_any_kind_is_read_in_a_fresh_process():
    values = one_of_each_kind()
    assert {v.kind for v in values} == set(kinds_in_the_source())
    program = """
import json, sys
import geoattn
from geoattn._value import Value
# the highest parts first, so that none finds its module imported by another
for content in reversed(json.loads(sys.stdin.readline())):
    print(Value.from_dict(content).digest)
"""
    run = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([v.to_dict() for v in values]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [v.digest for v in reversed(values)]


def test_reading_a_grid_imports_no_more_than_its_module():
    content = GRID.to_dict()
    program = f"import sys, geoattn as ga; ga.grids.Grid.from_dict({content!r}); print([*sys.modules])"
    assert "'torch'" not in fresh(program)


@pytest.mark.parametrize(
    ("kind", "place"), [("gaussian", "geoattn.grids.latlon:Gaussian"), ("schema", ":Schema")]
)
def test_a_kind_of_ours_cannot_be_taken(kind, place):
    """Whether its module is imported yet or not."""
    program = f"""
import dataclasses
import geoattn as ga
try:
    class Mine(ga.grids.PointSet, kind={kind!r}):
        pass
except ValueError as error:
    print(error)
print(ga.grids.Grid.from_dict({GRID.to_dict()!r}))
"""
    said, grid = fresh(program).splitlines()
    assert place in said
    assert "__main__:Mine" in said
    assert "another name" in said
    assert grid == "Gaussian grid 4×8"


def define(kind: str, module: str):
    namespace = {"__name__": module, "PointSet": ga.grids.PointSet}
    exec(f"class Cell(PointSet, kind={kind!r}):\n    pass", namespace)
    return namespace["Cell"]


def test_a_cell_run_again_replaces_its_kind_and_another_module_does_not():
    first = define("cell of a notebook", "notebook")
    again = define("cell of a notebook", "notebook")
    assert first is not again
    assert KINDS["cell of a notebook"] is again
    with pytest.raises(ValueError, match="notebook:Cell and cannot become elsewhere:Cell"):
        define("cell of a notebook", "elsewhere")
    assert KINDS["cell of a notebook"] is again


def test_a_class_cannot_pass_for_the_one_that_it_extends():
    with pytest.raises(TypeError, match=r"share the kind 'gaussian'.*kind='…'"):

        class Shifted(ga.grids.Gaussian):
            pass


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"kind 'gausian' is no grid; known kinds: \['cartesian'"):
        ga.grids.Grid.from_dict({"kind": "gausian", "nlat": 4, "nlon": 8})
    with pytest.raises(ValueError, match="kind 'gaussian' is no neighborhood"):
        ga.neighborhoods.Neighborhood.from_dict(GRID.to_dict())
    with pytest.raises(ValueError, match="kind None is no grid"):
        ga.grids.Grid.from_dict({})


def test_a_position_scheme_of_ones_own_is_found_by_its_kind():
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Nothing(ga.nn.Position, kind="nothing"):
        amount: float

        def module(self, query_grid, key_grid, num_heads, head_dim):
            raise NotImplementedError

    hood = ga.everything(GRID)
    with pytest.raises(TypeError, match=r"parameters without defaults.*Nothing\(…\)"):
        ga.nn.Attention(4, 1, hood, position="nothing")
    with pytest.raises(NotImplementedError):
        ga.nn.Attention(4, 1, hood, position=Nothing(1.0))
    with pytest.raises(ValueError, match=r"position 'gaussian' is unknown; use None, one of \[.*'harmonic'"):
        ga.nn.Attention(4, 1, hood, position="gaussian")


class Mine(Reference):
    """A backend of one's own."""


def test_a_backend_is_registered_where_it_is_said_to_be_tried():
    backends.register("mine", Mine)
    try:
        assert list(backends.KNOWN)[-1] == "mine"
        assert "mine" not in {n for names in backends.AUTOMATIC.values() for n in names}
        q = ga.grids.gaussian(4, 8)
        backends.register("mine", Mine, devices=("cpu", "xpu"), before="cpu")
        assert backends.AUTOMATIC["cpu"] == ("sdpa", "mine", "cpu", "reference")
        assert backends.AUTOMATIC["xpu"] == ("mine", "reference")
        assert "mine" not in backends.AUTOMATIC["cuda"]
        assert "hpu" not in backends.AUTOMATIC
        x = torch.randn(1, 4, 8, 1, 4)
        disc = ga.geodesic(q, radius=40.0)
        ga.attention(x, x, x, disc)
        assert backends.last() == "mine"
        assert list(ga.explain(x, x, x, disc))[:2] == ["sdpa", "mine"]
    finally:
        backends.register("mine", Mine, devices=())
    assert backends.AUTOMATIC["cpu"] == ("sdpa", "cpu", "reference")


def test_a_backend_may_be_named_and_is_imported_when_it_is_asked_for():
    program = """
import sys
import geoattn as ga
ga.backends.register("late", "sched:scheduler", devices=("cpu",))
assert "sched" not in sys.modules
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(ga.backends()["late"])
assert "sched" in sys.modules and len(caught) == 1
assert ga.backends.AUTOMATIC["cpu"] == ("sdpa", "cpu", "reference")
"""
    assert "it lacks unavailable, refuses, forward, backward" in fresh(program)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ("cpu", Mine),
            ValueError,
            r"backend 'cpu' is geoattn.backends.cpu.backend:Cpu and cannot become .*:Mine",
        ),
        (("cpu", "other:Backend"), ValueError, "cannot become other:Backend"),
        (("own", object()), TypeError, "lacks unavailable"),
        (("own", "no colon"), ValueError, "'no colon' names no part"),
        (("", Mine), TypeError, "must be a string"),
        (
            ("own", Mine, "cuda"),
            TypeError,
            r"must be a tuple of device types such as \('cuda',\), got 'cuda'",
        ),
        (("own", Mine, ("cuda",), "fast"), ValueError, "before='fast' is no backend; known backends: sdpa"),
    ],
)
def test_what_is_no_backend_is_refused(arguments, error, words):
    name, backend, devices, before = (*arguments, None, None)[:4]
    with pytest.raises(error, match=words):
        backends.register(name, backend, devices=devices, before=before)
    assert name in ("cpu", "") or name not in backends.KNOWN
    assert backends.get("cpu").name == "cpu"


def other(name: str):
    def recogniser(ds, *, tolerance, use_areas):
        return ga.grids.Recognition(GRID, name, ("lat", "lon")) if ds.attrs.get("claimed") else None

    return recogniser


def test_two_recognisers_of_one_data_set_are_both_named(monkeypatch):
    monkeypatch.setattr(recognisers, "RECOGNISERS", Registry("recogniser", {}, (), recognisers._checked))
    coords = {"lat": GRID.lat[:, 0], "lon": GRID.lon[0]}
    claimed, free = xarray.Dataset(coords=coords, attrs={"claimed": 1}), xarray.Dataset(coords=coords)
    ga.grids.register_recogniser("one", other("one"))
    assert ga.grids.recognise(claimed).basis == "one"
    other_module = other("two")
    other_module.__module__ = "elsewhere"
    ga.grids.register_recogniser("two", other_module)
    with pytest.raises(ValueError, match=r"'one' \(.*\) and 'two' \(elsewhere:other"):
        ga.grids.recognise(claimed)
    assert ga.grids.recognise(free).basis == "coordinates 'lat' and 'lon'"
    assert ga.grids.recognise(claimed, lat="lat", lon="lon").basis == "coordinates 'lat' and 'lon'"
    with pytest.raises(TypeError, match="is no function"):
        ga.grids.register_recogniser("three", 3)


@pytest.mark.parametrize(
    "answer",
    [
        GRID,
        ga.grids.Recognition(GRID, "", ("lat",)),
        ga.grids.Recognition(ga.grids.cartesian(32), "", ("lat",)),
    ],
)
def test_a_recogniser_that_answers_nonsense_is_passed_over_with_a_warning(answer, monkeypatch):
    monkeypatch.setattr(recognisers, "RECOGNISERS", Registry("recogniser", {}, (), recognisers._checked))
    ga.grids.register_recogniser("odd", lambda ds, **options: answer)
    coords = {"lat": GRID.lat[:, 0], "lon": GRID.lon[0]}
    with pytest.warns(RuntimeWarning, match="recogniser 'odd' .* failed and is passed over: TypeError"):
        assert ga.grids.from_xarray(xarray.Dataset(coords=coords)) == GRID
