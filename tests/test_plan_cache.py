"""Plans are kept in memory and on disk, and nothing found there can make a result wrong."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import geoattn as ga
from geoattn import plans
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import cache


def a_hood() -> Neighborhood:
    return ga.geodesic(ga.grids.equiangular(13, 24), radius=25)


def same(a: plans.Plan, b: plans.Plan) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(plans.Plan)]
    return all(type(x) is type(y) and np.array_equal(x, y) for x, y in pairs if x is not None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps every plan, and an empty memory."""
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr(cache, "_held", type(cache._held)())
    return tmp_path / "plans"


def forget() -> None:
    cache._held.clear()


def test_equal_neighborhoods_share_one_plan(folder: Path) -> None:
    assert plans.plan(a_hood()) is plans.plan(a_hood())
    assert plans.plan(a_hood()) is not plans.plan(a_hood(), 32, 1)


@pytest.mark.parametrize("shape", [(64, 64), (32, 1)], ids=str)
def test_a_plan_from_disk_is_the_one_that_was_written(
    folder: Path, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = plans.plan(a_hood(), *shape)
    forget()
    monkeypatch.setattr(cache, "build", None)  # reading must do
    assert same(plans.plan(a_hood(), *shape), built)


def test_only_plans_that_took_a_while_are_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "WORTH_KEEPING", 1e9)
    plans.plan(a_hood())
    assert not folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"not a plan",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: content[:600] + bytes([content[600] ^ 1]) + content[601:],
        lambda content: content[: len(content) // 2] + b"\0" * 64 + content[len(content) // 2 + 64 :],
    ],
    ids=["empty", "other content", "half", "one byte short", "one bit flipped", "a run of zeros"],
)
def test_damaged_files_are_built_anew(folder: Path, damage: object) -> None:
    built = plans.plan(a_hood())
    (path,) = folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.read(path) is None
    forget()
    assert same(plans.plan(a_hood()), built)
    found = cache.read(path)
    assert found is not None
    assert same(found, built)


def test_a_file_of_other_arrays_is_built_anew(folder: Path) -> None:
    built = plans.plan(a_hood())
    (path,) = folder.iterdir()
    np.savez(path, something=np.arange(3))
    forget()
    assert same(plans.plan(a_hood()), built)


def test_another_layout_number_does_not_read_this_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans.plan(a_hood())
    forget()
    monkeypatch.setattr(cache, "LAYOUT", cache.LAYOUT + 1)
    plans.plan(a_hood())
    assert len(list(folder.iterdir())) == 2


def test_processes_that_write_at_once_leave_one_whole_file(folder: Path) -> None:
    program = """
import sys
import geoattn as ga
from geoattn.plans import cache
cache.WORTH_KEEPING = 0.0
hood = ga.geodesic(ga.grids.equiangular(13, 24), radius=25)
sys.stdout.write("ready"); sys.stdout.flush(); sys.stdin.readline()
for _ in range(20):
    cache.write(cache.cache_folder("plans") / "shared.npz", cache.plan(hood))
    assert cache.read(cache.cache_folder("plans") / "shared.npz") is not None
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.read(5) == "ready"
    for writer in writers:
        writer.communicate("go\n", timeout=120)
        assert writer.returncode == 0
    assert not list(folder.glob("*.part"))
    found = cache.read(folder / "shared.npz")
    assert found is not None
    assert same(found, plans.build(a_hood()))


def test_a_folder_that_cannot_be_written_is_reported_and_survived(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.joinpath("file").write_text("")
    monkeypatch.setenv("GEOATTN_CACHE", str(folder.parent / "file"))
    with pytest.warns(UserWarning, match="GEOATTN_CACHE"):
        found = plans.plan(a_hood())
    assert same(found, plans.build(a_hood()))


def test_memory_drops_the_least_recently_used_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hoods = [ga.geodesic(ga.grids.equiangular(13, 24), radius=r) for r in (20, 25, 30)]
    first, second = plans.plan(hoods[0]), plans.plan(hoods[1])
    monkeypatch.setattr(cache, "MEMORY", first.nbytes + second.nbytes + 1)
    assert plans.plan(hoods[0]) is first
    plans.plan(hoods[2])
    assert plans.plan(hoods[1]) is not second


@pytest.mark.parametrize("unset", ["", None], ids=["empty", "absent"])
def test_the_cache_lies_in_the_users_cache_folder(
    unset: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    if unset is None:
        monkeypatch.delenv("GEOATTN_CACHE", raising=False)
    else:
        monkeypatch.setenv("GEOATTN_CACHE", unset)
    assert cache.cache_folder("plans") == tmp_path / "geoattn" / "plans"
