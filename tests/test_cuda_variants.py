"""Every CUDA kernel compiles for every architecture, within its registers: no GPU is needed to know.

``benchmarks/results/cuda_variants.csv`` holds what the compiler says of each variant. Its head names
the sources by a digest of their content, so that the table stands for a compilation of all of them as
long as they are unchanged, and an eighth of it, another one after each change, is compiled here anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import torch

from geoattn.backends.cuda import variants
from geoattn.backends.cuda.compiler import compiler

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "cuda_variants.py"
UPDATE = "run python benchmarks/cuda_variants.py"


sys.path.append(str(SCRIPT.parent))
table = importlib.import_module("cuda_variants")
KNOWN, ROWS = table.TABLE.read()


@pytest.fixture(scope="module")
def chosen():
    """The compiler, or the reason why there is none."""
    try:
        return compiler()
    except RuntimeError as error:
        pytest.skip(str(error))


def test_the_table_is_of_the_sources_as_they_are(chosen):
    assert KNOWN["sources"] == table.head()["sources"], UPDATE


def test_the_table_lists_every_variant():
    known = [{column: row[column] for column in described} for row, described in paired()]
    assert known == [described for _, described in paired()], UPDATE


def paired():
    works = table.everything()
    assert len(ROWS) == len(works), UPDATE
    return [(row, table.described(*work)) for row, work in zip(ROWS, works, strict=True)]


def test_no_variant_spills_or_exceeds_its_registers():
    over = [row for row in ROWS if table.over_budget(row)]
    assert not over, f"{len(over)} of {len(ROWS)} variants are over budget, first {over[0]}"


def test_every_variant_fits_the_shared_memory_of_every_device():
    assert max(int(row["shared_bytes"]) for row in ROWS) <= variants.MOST_SHARED_BYTES


@pytest.mark.parametrize("architecture", table.ARCHITECTURES)
@pytest.mark.parametrize("dtype", variants.ELEMENTS)
def test_compiled_anew_they_are_as_the_table_says(chosen, dtype, architecture):
    """Another version of the compiler may use other registers: then only the budgets hold."""
    element = variants.ELEMENTS[dtype]
    every = [v for v in variants.every(architecture) if dict(v.definitions)["ELEMENT"] == element]
    rows = [table.compiled((variant, architecture)) for variant in every[int(KNOWN["sources"], 16) % 8 :: 8]]
    assert rows
    assert not [row for row in rows if table.over_budget(row)]
    if chosen.version == KNOWN["compiler"]:
        assert table.TABLE.differences(rows, ROWS) == [], UPDATE


def test_spills_are_noticed(chosen):
    """A kernel that is given too few registers is over its budget."""
    variant = variants.forward(torch.bfloat16, 64, 64, True, 90)
    crowded = dict(variant.definitions) | {"BLOCKS": "8"}
    row = table.compiled((dataclasses.replace(variant, definitions=tuple(crowded.items()), blocks=8), 90))
    assert table.over_budget(row)
    assert table.TABLE.differences([row], ROWS)
