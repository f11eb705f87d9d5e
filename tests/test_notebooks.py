"""Every notebook runs from top to bottom, at a toy size, by nbmake in a kernel of its own."""

import base64
import copy
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_fields import real_field

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = {
    "matplotlib": "notebooks draw",
    "lightning": "notebooks train",
    "nbmake": "it executes notebooks",
    "ipykernel": "notebooks need a kernel",
}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 7


@pytest.fixture(scope="module")
def execute():
    """What runs the notebooks and keeps their outputs small."""
    spec = importlib.util.spec_from_file_location("execute_notebooks", ROOT / "notebooks" / "execute.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_outputs_are_those_of_the_code_and_small(path, execute):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    pictures = [kind for o in outputs for kind in o.get("data", {}) if kind in execute.PICTURES]
    assert notebook["metadata"]["geoattn"]["code"] == execute.digest(notebook), "run: make notebooks"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert pictures
    assert path.stat().st_size < 400_000
    assert execute.tidied(copy.deepcopy(notebook)) == notebook  # no errors, warnings, times, or long texts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_state_their_time_data_and_what_to_change(path):
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    for word in ("Time", "Data", "Change"):
        assert re.search(rf"^- \*\*{word}\*\*: \S", first, re.MULTILINE), word


def test_what_is_kept_of_outputs_is_what_a_reader_looks_at(execute):
    pytest.importorskip("PIL", reason="pictures are read by Pillow")
    from PIL import Image

    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)  # 360 KB
    Image.fromarray(noise).save(file, format="png")
    picture = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
    data = {"text/html": "x" * 10_000, "text/plain": "a data set"}
    cell = {
        "cell_type": "code",
        "source": ["1 + 1"],
        "metadata": {"execution": {"iopub.execute_input": "2020-01-01"}},
        "outputs": [
            {"output_type": "stream", "name": "stderr", "text": ["a warning"]},
            {"output_type": "stream", "name": "stdout", "text": ["two"]},
            {"output_type": "execute_result", "data": data, "metadata": {}},
            {"output_type": "display_data", "data": picture, "metadata": {"needs_background": "light"}},
        ],
    }
    kept = execute.tidied({"cells": [cell], "metadata": {"widgets": {}}})
    (cell,) = kept["cells"]
    assert set(kept["metadata"]) == {"geoattn", "kernelspec", "language_info"}
    assert cell["metadata"] == {}
    assert [o["output_type"] for o in cell["outputs"]] == ["stream", "execute_result", "display_data"]
    assert cell["outputs"][1]["data"] == {"text/plain": "a data set"}
    small = Image.open(io.BytesIO(base64.b64decode(cell["outputs"][2]["data"]["image/jpeg"])))
    assert small.size == (400, 300)
    assert set(cell["outputs"][2]["data"]) == {"image/jpeg", "text/plain"}
    assert execute.tidied(copy.deepcopy(kept)) == kept


def test_pictures_keep_their_colours(execute):
    """Few colours stay what they are; a smooth field is not cut into bands."""
    pytest.importorskip("PIL", reason="pictures are read by Pillow")
    from PIL import Image

    def kept(values):
        file = io.BytesIO()
        Image.fromarray(values.astype(np.uint8)).save(file, format="png", compress_level=0)
        data = {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}
        ((kind, small),) = [
            item
            for item in execute._kept({"output_type": "display_data", "data": data})["data"].items()
            if item[0] != "text/plain"
        ]
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(small))).convert("RGB"), float)
        return kind, np.abs(found - values).max(), found

    stripes = np.zeros((300, 400, 3))
    stripes[:, ::7] = (200, 30, 10)
    kind, off, _ = kept(stripes)
    assert kind == "image/png"
    assert off == 0
    y, x = np.mgrid[:300, :400]
    smooth = np.floor(np.stack((y / 300, x / 400, (x + y) / 700), -1) * 255)
    kind, off, found = kept(smooth)
    assert kind == "image/jpeg"
    assert off <= 12
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 5000


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kept in /tmp/tmpab12/run", "says where it ran: .*/tmp/tmpab12/run"),
        ("PosixPath('/home/me/data')", "says where it ran"),
        ("<object at 0x7f8a9b3c>", "says where it ran"),
        ("long " * 2000, "says 10,000 characters, above"),
    ],
)
def test_outputs_that_are_no_business_of_a_reader_are_refused(text, words, execute):
    output = {"output_type": "stream", "name": "stdout", "text": [text]}
    cell = {"cell_type": "code", "source": ["f()"], "metadata": {}, "outputs": [output]}
    with pytest.raises(ValueError, match=words):
        execute.tidied({"cells": [cell]})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_training_leaves_no_bars_among_the_outputs(path):
    cells = ("".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
    training = [cell for cell in cells if re.search(r"\b(fit|train_forecaster)\(", cell)]
    assert all(cell.startswith("%%capture") for cell in training)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path):
    for name in re.findall(r"real_data\.fetch\(\\\"(\w+)\\\"\)", path.read_text()):
        real_field(name)
    for module, reason in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is missing: {reason}")
    environment = os.environ | {
        "GEOATTN_QUICK": "1",
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "pytest", "--nbmake", "--nbmake-timeout=600", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, str(path)], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
