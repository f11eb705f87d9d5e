"""The wheel: pure Python, complete, and usable outside the checkout."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, so that the checkout stays clean and nothing stale slips in."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("geoattn", "grids", "cuda"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), str(source)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return next(dist.glob("*.whl"))


def test_the_wheel_is_pure_python_and_carries_catalogue_and_kernels(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "geoattn").rglob("*.py")}
    assert sources <= names
    for folder, pattern in (("grids", "**/*.json"), ("cuda", "**/*.cu*")):
        shipped = {f"geoattn/shipped/{p.relative_to(ROOT)}" for p in (ROOT / folder).glob(pattern)}
        assert shipped <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_no_extra_but_its_own_brings_torch_harmonics_which_replaces_torch():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name for name, lines in extras.items() if "harmonics" in str(lines)} == {"harmonics"}
    left = {name for name in extras if name != "all" and name not in extras["all"][0]}
    # timm brings a torchvision, for one build of torch; the others are services and viewers that few want
    assert left == {"harmonics", "timm", "tensorboard", "wandb"}


def test_the_installed_wheel_works_outside_the_checkout(wheel, tmp_path):
    """In a fresh environment that sees this one's dependencies, but not this checkout."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    dependencies = Path(pytest.__file__).parent.parent
    # a plain .pth line would also run the editable install's hook, so append the folder by hand
    (site / "dependencies.pth").write_text(f"import sys; sys.path.append({str(dependencies)!r})\n")
    program = (
        "import geoattn as ga, torch\n"
        "grid = ga.grids.named('era5-1.5')\n"
        "hood = ga.geodesic(ga.grids.gaussian(8, 16), radius=30)\n"
        "x = torch.randn(1, 8, 16, 2, 4)\n"
        "print(ga.__file__, grid.size, ga.attention(x, x, x, hood).shape)\n"
    )
    run = subprocess.run([str(python), "-E", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert str(tmp_path) in run.stdout


def test_the_version_is_that_of_the_tag(tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"], ["tag", "v7.8.9"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    command = [sys.executable, "-m", "setuptools_scm"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "7.8.9"
