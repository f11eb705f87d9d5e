"""The examples run, at toy size, and do what they say."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_model_of_torch_harmonics_gives_the_same_on_geoattn():
    pytest.importorskip("torch_harmonics", reason="the example ports a model of it")
    assert example("port_torch_harmonics").main([]) < 1e-5


def test_a_transformer_of_ones_own_learns():
    assert example("custom_transformer").main(["--steps", "80"]) < 0.5


@pytest.mark.parametrize("grid", ["ga.grids.gaussian(16, 32)", "ga.grids.healpix(8)"])
def test_the_template_of_a_project_passes_its_own_tests_where_it_is_copied(tmp_path, grid):
    for module in ("lightning", "matplotlib", "jsonargparse"):
        pytest.importorskip(module, reason="the template trains, draws and reads flags")
    shutil.copytree(EXAMPLES / "own_model", tmp_path / "my_model")
    lines = [len(path.read_text().splitlines()) for path in (tmp_path / "my_model").glob("*.py")]
    assert sum(lines) < 220
    data = tmp_path / "my_model" / "data.py"
    before = data.read_text()
    assert "GRID = ga.grids.gaussian(16, 32)\n" in before
    data.write_text(before.replace("GRID = ga.grids.gaussian(16, 32)", f"GRID = {grid}"))
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "."]
    run = subprocess.run(pytest_here, cwd=tmp_path / "my_model", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "4 passed" in run.stdout


def test_a_model_over_four_processes():
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4"]
    toy = [str(EXAMPLES / "parallel.py"), "--rows", "16", "--radius", "25"]
    run = subprocess.run([*torchrun, *toy], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert "4 processes" in run.stdout
    differ = re.search(r"differ from one process by (\S+) at most", run.stdout)
    assert float(differ[1]) < 5e-6  # gradients are sums over all points
    first, last = (float(loss) for loss in re.findall(r"loss (\d\S+)$", run.stdout, flags=re.MULTILINE))
    assert last < first


def test_pieces_add_up_on_processes_and_on_a_cluster(capsys):
    for module in ("xarray", "zarr", "distributed"):
        pytest.importorskip(module, reason="the example reads a store on a cluster")
    assert example("pieces").main([]) == 0
    assert "to the bit" in capsys.readouterr().out


def test_shallow_water(tmp_path, capsys):
    for module in ("lightning", "matplotlib", "xarray"):
        pytest.importorskip(module, reason="the example simulates, trains and draws")
    toy = ["--rows", "12", "--trajectories", "2", "--steps", "6", "--output", str(tmp_path / "run")]
    example("shallow_water").main(toy)
    assert capsys.readouterr().out.count("hours: depth") == 6
    assert (tmp_path / "run" / "model.pt").exists()
