"""The systems of the field, shown: the benchmark at toy size, what it keeps, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga

for module, reason in {
    "lightning": "models are trained on Lightning",
    "matplotlib": "panoramas' task draws",
    "torchmetrics": "panoramas are scored with torchmetrics",
}.items():
    pytest.importorskip(module, reason=reason)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _beside_the_benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_every_part_runs_and_makes_its_tables(tmp_path, capsys, monkeypatch):
    import systems
    import systems_hilbert
    import systems_page

    monkeypatch.setattr(systems_hilbert, "_compiled", _interpreted)
    output = tmp_path / "systems.json"
    arguments = ["--small", "--output", str(output), "--folder", str(tmp_path / "runs")]
    systems.main(arguments)
    content = json.loads(output.read_text())
    assert set(content["parts"]) == set(systems.PARTS)
    found = systems_page.tables(content)
    assert set(found) == set(systems_page.MAKERS)
    assert "Not run." not in found.values()
    assert set(systems_page.tables({"parts": {}}).values()) == {"Not run."}
    for part in content["parts"].values():
        for row in part["rows"].values():
            for seconds in row.get("seconds", {}).values():
                assert all(s > 0 for s in seconds.values())
    assert content["parts"]["hilbert"]["rows"]["windows of the plane"]["absent"] == {}
    capsys.readouterr()
    systems.main([*arguments, "--only", "dina"])
    assert "dina, NA, seed 0: kept" in capsys.readouterr().out


def _interpreted():
    """What FlexAttention makes of a block mask, without the compiler of C++."""

    def attend(q, k, v, block_mask):
        place = torch.arange(q.shape[2])
        size = block_mask.BLOCK_SIZE[0]
        listed = block_mask.to_dense()[0, 0].bool().repeat_interleave(size, 0).repeat_interleave(size, 1)
        seen = block_mask.mask_mod(0, 0, place[:, None], place) & listed
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    return attend


def test_the_page_has_the_tables_of_the_file():
    import pages
    import systems_page

    content = json.loads((ROOT / "benchmarks" / "results" / "systems.json").read_text())
    page = (pages.DOCS / "systems.md").read_text()
    assert {name for _, name, _ in pages.MARKED.findall(page)} == set(systems_page.MAKERS)
    assert pages.filled(page, systems_page.tables(content)) == page


def test_rows_are_kept_when_quiet_and_measured_again_when_loaded_or_elsewhere(tmp_path, monkeypatch):
    import systems_measure

    busy, runs = [0.5], []
    monkeypatch.setattr(systems_measure.Others, "cores", lambda self: busy[0])

    def measure():
        runs.append(1)
        return {"value": len(runs)}

    def results():
        return systems_measure.Results(tmp_path / "results.json", "a command")

    assert results().row("part", "row", measure)["loaded"]
    busy[0] = 0.0
    assert results().row("part", "row", measure)["value"] == 2
    assert results().row("part", "row", measure)["value"] == 2
    assert results().row("part", "training", measure, timed=False, lasting=True)["value"] == 3
    here = systems_measure.where()
    monkeypatch.setattr(systems_measure, "where", lambda: here | {"threads": 99})
    assert results().row("part", "training", measure, timed=False, lasting=True)["value"] == 3
    assert results().row("part", "row", measure)["value"] == 4


def test_calls_that_differ_are_not_timed():
    import systems_measure

    hood = ga.window(ga.grids.cartesian((8, 8)), 3)
    calls = {"ours": systems_measure.ours(hood), "wrong": systems_measure.dense(hood)}
    with pytest.raises(ArithmeticError, match="wrong differs by"):
        systems_measure.in_turn(calls, systems_measure.operands(hood, 1, 8), 1)


def test_blocks_are_those_that_hold_a_pair():
    import systems_hilbert

    hood = ga.window(ga.grids.cartesian((8, 8)), 3, boundary="clip")
    order = ga.grids.order(hood.query_grid, "hilbert").astype(np.int64)
    seen = np.zeros((64, 64), bool)
    indptr, indices = hood.to_csr()
    seen[np.repeat(np.arange(64), np.diff(indptr)), indices] = True
    expected = seen[order][:, order].reshape(4, 16, 4, 16).sum((1, 3))
    np.testing.assert_array_equal(systems_hilbert.blocks(hood, order, 16), expected)


def test_the_order_found_for_a_shuffled_pattern_brings_its_tiles_together():
    import systems_patterns

    hood = systems_patterns.shuffled(ga.window(ga.grids.cartesian((32, 32)), 5))
    row = systems_patterns.permuted(hood, systems_patterns.Options(1, True))
    assert row["predicted"]["tiles"] > 2 * systems_patterns.predicted(hood)["tiles"]


def test_what_a_query_has_heard_of_is_what_its_output_depends_on():
    import systems_dina

    rooms = systems_dina.SMALL_ROOMS
    network = systems_dina.model("DiNA", rooms, 0)
    torch.nn.init.normal_(network.decoder.projection.weight)
    rgb = torch.rand(1, 3, *rooms.grid.shape, requires_grad=True)
    tokens = systems_dina.hoods(rooms)["NA"][0].query_grid
    query = int(np.ravel_multi_index((3, 5), tokens.shape))
    (gradient,) = torch.autograd.grad(network(rgb)[0, :, 6, 10].sum(), rgb)
    moved = gradient[0].abs().sum(0).unfold(0, 2, 2).unfold(1, 2, 2).sum((-2, -1)).flatten() > 0
    np.testing.assert_array_equal(
        moved.numpy(), systems_dina.layers(rooms, "DiNA")[query] <= systems_dina.DEPTH
    )
