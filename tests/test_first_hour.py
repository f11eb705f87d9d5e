"""What one meets in the first hour: each mistake is answered with what to write instead."""

import ast
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import models

PACKAGE = Path(ga.__file__).parent
GRID = ga.grids.gaussian(4, 8)
HOOD = ga.geodesic(GRID, radius=60.0)
X = torch.randn(2, *GRID.shape, 8)
FIELDS = torch.randn(2, 3, *GRID.shape)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [(X.movedim(-1, 1), "x.movedim("), (X.flatten(1, 2), "x.unflatten("), (X[0], "x.unsqueeze(")],
)
def test_tokens_in_another_order(wrong, remedy, refused_by):
    module = ga.nn.Attention(8, 2, HOOD)
    with refused_by("nn/checks.py", "{name} must have shape [") as said:
        module(wrong)
    right = said.run(remedy, x=wrong)
    torch.testing.assert_close(module(right), module(X[: len(right)]))


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [(FIELDS.movedim(1, -1), "fields.movedim("), (FIELDS[0], "fields.unsqueeze(")],
)
def test_fields_in_another_order(wrong, remedy, refused_by):
    model = models.TransformerConfig(GRID, HOOD, 3, 1, dim=8, depth=1, num_heads=2).build()
    with refused_by("models/config.py", "fields must have shape [B, {}] on") as said:
        model(wrong)
    right = said.run(remedy, fields=wrong)
    torch.testing.assert_close(model(right), model(FIELDS[: len(right)]))


def test_a_channel_that_is_left_out():
    model = models.TransformerConfig(GRID, HOOD, 1, 1, dim=8, depth=1, num_heads=2).build()
    with pytest.raises(ValueError, match=r"; one channel is an axis too: fields\.unsqueeze\(1\)$"):
        model(FIELDS[:, 0])
    assert model(FIELDS[:, 0].unsqueeze(1)).shape == (2, 1, 4, 8)


def test_fields_of_numpy(refused_by):
    model = models.TransformerConfig(GRID, HOOD, 3, 1, dim=8, depth=1, num_heads=2).build()
    with refused_by("models/config.py", "fields must be a tensor") as said:
        model(FIELDS.numpy())
    assert model(said.run("torch.as_tensor(", "fields", fields=FIELDS.numpy())).shape == (2, 1, 4, 8)
    said.says("ga.xarray.to_tensor(ds, schema)")  # carried out for tokens


def test_heads_before_the_grid():
    q = torch.randn(2, 3, *GRID.shape, 4)
    for wrong, remedy in (
        (q, "q.movedim(1, -2)"),
        (q.flatten(2, 3), "q.movedim(1, -2).unflatten(1, (4, 8))"),
        (q.flatten(2, 3).movedim(1, 2), "q.unflatten(1, (4, 8))"),
    ):
        with pytest.raises(ValueError, match=r"q must be \[B, 4, 8, H, D\]") as said:
            ga.attention(wrong, wrong, wrong, HOOD)
        assert str(said.value).endswith(remedy)
        right = eval(remedy, {"q": wrong})
        torch.testing.assert_close(right, q.movedim(1, -2))


def test_radians_for_degrees(refused_by):
    lat, lon = (np.radians(x) for x in (GRID.lat.ravel(), GRID.lon.ravel()))
    with refused_by("grids/points.py", "radians of a globe would") as said:
        ga.grids.points(lat, lon)
    grid = said.run("ga.grids.points(", lat=lat, lon=lon)
    np.testing.assert_allclose(grid.lat, GRID.lat.ravel())
    said.says("areas=…")
    with pytest.raises(ValueError, match=r"cover a region.*areas=") as said:
        ga.grids.points(lat, lon / 10)  # so small a region is no globe in radians
    assert "as radians" not in str(said.value)
    with pytest.warns(UserWarning, match=r"the radius is in degrees: 0\.5 radians are radius=28\.6"):
        ga.attention(*torch.randn(3, 1, *GRID.shape, 1, 4), ga.geodesic(GRID, radius=0.5))
    assert math.isclose(math.degrees(0.5), 28.6, abs_tol=0.1)


MISSING = {
    "xarray": ("ga.xarray", 'ga.xarray needs xarray: pip install "geoattn[xarray]"'),
    "lightning": ("ga.training", 'ga.training needs lightning: pip install "geoattn[train]"'),
    "matplotlib": ("ga.picture(hood, 3)", 'a picture needs matplotlib: pip install "geoattn[plot]"'),
}


MISSING |= {
    "xarray of its module": (
        "import geoattn.xarray",
        'geoattn.xarray needs xarray: pip install "geoattn[xarray]"',
    ),
    "torchmetrics": (
        "import geoattn.tasks.depth",
        'geoattn.tasks.depth needs torchmetrics: pip install "geoattn[vision]"',
    ),
    "zarr": (
        "ga.xarray.Statistics.open('a.zarr')",
        'a zarr store needs zarr: pip install "geoattn[xarray]"',
    ),
}


@pytest.mark.parametrize("package", MISSING)
def test_missing_extras(package):
    code, words = MISSING[package]
    program = (
        f"import sys; sys.modules[{package.split()[0]!r}] = None\nimport geoattn as ga\n"
        f"hood = ga.geodesic(ga.grids.gaussian(4, 8), radius=60)\n{code}"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stderr.splitlines()[-1] == f"ModuleNotFoundError: {words}"


def imports_of_extras():
    """Each import of a package of an extra: the module, the function around it or None, and the package."""
    from geoattn._extras import EXTRAS

    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE)
        tree = ast.parse(path.read_text())
        typed = {
            n
            for i in ast.walk(tree)
            if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
            for n in ast.walk(i)
        }
        functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)]
        around = {node: f for f in functions for node in ast.walk(f)}  # the innermost comes last
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += (
                [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            )
            for package in {name.split(".")[0] for name in names} & EXTRAS.keys():
                if node not in typed:
                    yield module, around.get(node, tree), node, package


def asked_for(scope, before, package):
    """Whether the package was required, or its absence thought of, in a scope before a line of it."""
    for node in ast.walk(scope):
        if isinstance(node, ast.Call) and node.lineno < before.lineno:
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            name = ast.unparse(node.func)
            if name.endswith("require") and package in words:
                return True
            if name == "is_release_2":  # asks for zarr
                return package == "zarr"
        if isinstance(node, ast.Try) and before in node.body:
            return True
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith(f"{package!r} not in sys.modules"):
            return True
    return False


#: commands say the extra by themselves, from any error that names a package; pictures ask in ``plot.figures``
ASK_ELSEWHERE = (("commands", None), ("__main__.py", None), ("plot", "matplotlib"))


def test_packages_of_extras_are_asked_for_before_they_are_imported():
    """So that what is missing is answered by the command that brings it."""
    found = list(imports_of_extras())
    assert len(found) > 30
    for module, scope, node, package in found:
        if any(module.parts[0] == part and only in (None, package) for part, only in ASK_ELSEWHERE):
            continue
        scopes = [(scope, node)]
        if isinstance(scope, ast.Module):  # importing a module imports the packages that it is in before
            for folder in module.parents:
                text = PACKAGE / folder / "__init__.py"
                scopes.append((ast.parse(text.read_text()), ast.Pass(lineno=10_000)))
        assert any(asked_for(*place, package) for place in scopes), (
            f"{module}:{node.lineno} imports {package}"
        )


def test_what_is_required_names_its_extra(monkeypatch, refused_by):
    from geoattn import _extras

    monkeypatch.setattr(_extras, "find_spec", lambda name: None)
    for package, extra in _extras.EXTRAS.items():
        with refused_by("_extras.py", "{what} needs {package}") as said:
            _extras.require("this", package)
        said.says(f'pip install "geoattn[{extra}]"')


def test_extras_are_those_of_the_package():
    import tomllib
    from pathlib import Path

    from geoattn._extras import EXTRAS

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    listed = {name: " ".join(packages).lower() for name, packages in extras.items()}
    for package, extra in EXTRAS.items():
        called = {"PIL": "pillow", "numcodecs": "zarr"}.get(package, package).lower()
        assert called in listed[extra], package


@pytest.mark.parametrize("given", [GRID, ga.geodesic, torch.nn.Linear(2, 2), ga.grids])
def test_no_neighborhood_in_a_model_or_a_picture(given):
    for call in (
        lambda: models.TransformerConfig(GRID, given, 1, 1),
        lambda: ga.nn.Attention(8, 2, given),
        lambda: ga.picture(given, 3),
    ):
        with pytest.raises(
            TypeError, match=r"must be a neighborhood, got .*geoattn\.geodesic\(grid, radius=…\)"
        ):
            call()
