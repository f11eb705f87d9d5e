"""Private names of other packages: gathered in one file each, and still where they were."""

import ast
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn

PACKAGE = Path(geoattn.__file__).parent
GATHERED = {
    "torch": PACKAGE / "backends" / "torch_private.py",
    "numba": PACKAGE / "backends" / "cpu" / "numba_private.py",
    "zarr": PACKAGE / "xarray" / "stores" / "zarr_private.py",
}
#: what a name of each package that is not public looks like
PRIVATE = {
    "torch": re.compile(r"^torch(\.\w+)*\._[a-zA-Z]\w*"),
    "numba": re.compile(r"^numba\.(core|_|np|typed\._)"),
    "zarr": re.compile(r"^zarr\.(core|_)"),
}


def names_in(path):
    """Dotted names that a file imports or spells out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            parts = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if isinstance(node, ast.Name):
                yield ".".join([node.id, *reversed(parts)])


@pytest.mark.parametrize("package", GATHERED)
def test_private_names_stand_in_one_file(package):
    elsewhere = {
        str(path.relative_to(PACKAGE)): name
        for path in PACKAGE.rglob("*.py")
        if path != GATHERED[package]
        for name in names_in(path)
        if PRIVATE[package].match(name) and "__version__" not in name
    }
    assert not elsewhere, f"take them from {GATHERED[package].name}"
    assert any(PRIVATE[package].match(name) for name in names_in(GATHERED[package]))


def test_torch_still_has_them():
    from geoattn.backends import torch_private

    said = f"torch {torch.__version__} moved a name that geoattn stands on: see torch_private.py"
    try:
        with torch_private.below_autograd():
            x = torch.ones(2, requires_grad=True)
            assert not (2 * x).requires_grad, said
            with torch_private.with_autograd():
                assert isinstance(2 * x, torch.Tensor)
        assert not torch_private.in_functorch(), said
        answer = torch.compile(lambda x: x + torch_private.exporting(), backend="eager", fullgraph=True)
        assert answer(torch.zeros(1)) == 0, said
        assert torch.func.vmap(lambda x: x * torch_private.in_functorch())(torch.ones(2)).all(), said
        with torch_private.dynamo_limits(recompile_limit=3):
            pass
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{said} ({error})")


def test_numba_still_has_them():
    said = f"numba {version('numba')} moved a name that geoattn stands on: see numba_private.py"
    try:
        from geoattn.backends.cpu import numba_private

        assert len(numba_private.machine_tuple()) == 3, said
        assert numba_private.dumps((1, 2)), said
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{said} ({error})")


def test_zarr_still_has_them():
    zarr = pytest.importorskip("zarr", reason="stores are read by zarr")
    said = f"zarr {version('zarr')} moved a name that geoattn stands on: see zarr_private.py"
    array = zarr.array(np.arange(3))
    try:
        from geoattn.xarray.stores import zarr_private

        (read,) = zarr_private.read_all([(array, (slice(1, None),))])
        assert read.tolist() == [1, 2], said
        assert zarr_private.chunk_key(array)((0,)) in ("0", "c/0"), said
    except (AttributeError, ImportError) as error:
        pytest.fail(f"{said} ({error})")
