"""The Triton kernels compile for every architecture, within its registers: no GPU is needed to know.

``benchmarks/results/triton_variants.csv`` holds what the compiler says of each variant. Its head names the
kernels by a digest of their content, so that the table stands for a compilation of all of them as long
as they are unchanged; a few rows are compiled here anew.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from geoattn.plans import choice

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "triton_variants.py"
UPDATE = "run python benchmarks/triton_variants.py"

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)


sys.path.append(str(SCRIPT.parent))
table = importlib.import_module("triton_variants")
KNOWN, ROWS = table.TABLE.read()


def test_the_table_is_of_the_kernels_as_they_are():
    assert KNOWN["kernels"] == table.head()["kernels"], UPDATE


def test_the_table_has_every_architecture_element_and_width():
    held = {(row["architecture"], row["element"], row["score_dim"]) for row in ROWS if row["score_dim"]}
    wanted = {(target, table.ELEMENTS[dtype], str(dim)) for target, dtype, dim, *_ in table.works()}
    assert held == wanted, UPDATE


def test_nothing_spills_and_products_are_those_of_each_matrix_unit():
    """wgmma on Hopper, tcgen05 on Blackwell, MFMA on AMD's; ``faults`` says what is wrong."""
    wrong = [(row, table.faults(row)) for row in ROWS if table.faults(row)]
    assert wrong == []


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_compiled_anew_they_are_as_the_table_says(target, monkeypatch, tmp_path):
    """Another version of Triton may use other registers: then only the faults count."""
    import triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # a cache holds what was compiled before
    rows = table.compiled((target, torch.bfloat16, 64, 1, True, False))
    assert len(rows) >= 4
    assert [table.faults(row) for row in rows] == [[]] * len(rows)
    if triton.__version__ == KNOWN["triton"]:
        assert table.TABLE.differences(rows, ROWS) == [], UPDATE


def test_the_cost_model_counts_the_instructions_of_the_table():
    row = next(
        r for r in ROWS if (r["architecture"], r["kernel"], r["score_dim"]) == ("sm_90", "attend", "64")
    )
    assert (choice.MASKED, choice.UNMASKED) == (int(row["partial"]), int(row["full"]))
    assert choice.WARPS == int(row["warps"])


def test_faults_are_noticed():
    row = next(row for row in ROWS if row["kernel"] == "attend" and row["architecture"] == "sm_90")
    assert table.faults(row | {"spills": "3"}) == ["3 accesses of spilled registers"]
    assert "shared memory" in table.faults(row | {"shared_bytes": "300000"})[0]
    assert "not HGMMA" in table.faults(row | {"products": "64 HMMA"})[0]
    assert table.TABLE.differences([row | {"registers": "1"}], ROWS)
