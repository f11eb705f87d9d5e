"""Plans are kept in memory and on disk, and nothing found there can make a result wrong."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn import _files, plans
from geoattn._files import read_checked, write_checked
from geoattn.neighborhoods.base import Neighborhood
from geoattn.plans import cache, sources
from geoattn.relations.base import Relation


def a_hood() -> Neighborhood:
    return ga.geodesic(ga.grids.equiangular(13, 24), radius=25)


def same(a: plans.Plan, b: plans.Plan) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return type(a) is type(b) and all(type(x) is type(y) and np.array_equal(x, y) for x, y in pairs)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps every plan, and an empty memory."""
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "WORTH_KEEPING", 0.0)
    forget()
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
    assert cache.read(path, a_hood()) is None
    forget()
    assert same(plans.plan(a_hood()), built)
    found = cache.read(path, a_hood())
    assert found is not None
    assert same(found, built)


def test_a_file_of_other_arrays_is_built_anew(folder: Path) -> None:
    built = plans.plan(a_hood())
    (path,) = folder.iterdir()
    written = io.BytesIO()
    np.savez(written, something=np.arange(3))
    write_checked(written.getvalue(), path)
    forget()
    assert same(plans.plan(a_hood()), built)


def test_processes_that_write_at_once_leave_one_whole_file(folder: Path) -> None:
    program = """
import sys
import geoattn as ga
from geoattn.plans import cache
cache.WORTH_KEEPING = 0.0
hood = ga.geodesic(ga.grids.equiangular(13, 24), radius=25)
sys.stdout.write("ready"); sys.stdout.flush(); sys.stdin.readline()
for _ in range(20):
    cache.write(cache.cache_folder("plans") / "shared.plan", cache.plan(hood))
    assert cache.read(cache.cache_folder("plans") / "shared.plan", hood) is not None
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
    assert not list(folder.glob("*.partial"))
    found = cache.read(folder / "shared.plan", a_hood())
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
    monkeypatch.setattr(cache._held, "max_bytes", first.nbytes + second.nbytes + 1)
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


# --- what is in a file is compared, not trusted --------------------------------------------------------


def rewritten(path: Path, **arrays: object) -> None:
    """The file with other arrays, whole and with right checksums; None leaves one out."""
    checked = read_checked(path)
    assert checked is not None
    with np.load(io.BytesIO(checked)) as file:
        content = {name: file[name] for name in file.files} | arrays
    written = io.BytesIO()
    np.savez(written, **{name: value for name, value in content.items() if value is not None})
    write_checked(written.getvalue(), path)


KINDS = (plans.LanePlan, plans.TilePlan, plans.NumberedLanePlan, plans.NumberedTilePlan)


def what_has(kind: type[plans.Plan], hood: Neighborhood) -> Neighborhood | Relation:
    """What a plan of that kind is of."""
    numbered = issubclass(kind, plans.NumberedLanePlan | plans.NumberedTilePlan)
    return ga.relations.angles(hood, 3) if numbered else hood


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_that_a_kernel_must_not_follow_are_built_anew(folder: Path, kind: type[plans.Plan]) -> None:
    of = what_has(kind, a_hood())
    built = plans.plan(of, kind.query_tile, kind.key_tile)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for name in (field.name for field in dataclasses.fields(kind)):
        good = getattr(built, name)
        if name in ("ring", "count"):
            bad = [None, np.array(0)]
        else:
            bad = [None, good[:-1], good.astype(np.float64), good[::2], good + 10**6]
        for content in bad:
            path.write_bytes(whole)
            rewritten(path, **{name: content})
            assert cache.read(path, of) is None, (name, content)
    for name in ("query_order", "key_order"):  # a token twice, and another not at all
        order = getattr(built, name).copy()
        order[0] = order[1]
        path.write_bytes(whole)
        rewritten(path, **{name: order})
        assert cache.read(path, of) is None
    path.write_bytes(whole)
    assert cache.read(path, of) is not None


@pytest.mark.parametrize("kind", [plans.NumberedLanePlan, plans.NumberedTilePlan])
def test_the_plan_of_other_numbers_is_built_anew(folder: Path, kind: type[plans.Plan]) -> None:
    plans.plan(ga.relations.angles(a_hood(), 3), kind.query_tile, kind.key_tile)
    (path,) = folder.iterdir()
    assert cache.read(path, ga.relations.angles(a_hood(), 4)) is None
    assert cache.read(path, ga.relations.angles(a_hood(), [0, 10, 20, 31])) is None
    assert cache.read(path, ga.relations.angles(a_hood(), 3)) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_of_other_edges_is_built_anew(folder: Path, kind: type[plans.Plan]) -> None:
    other = what_has(kind, ga.geodesic(ga.grids.equiangular(13, 24), radius=31))
    plans.plan(other, kind.query_tile, kind.key_tile)
    (path,) = folder.iterdir()
    assert cache.read(path, other) is not None
    assert cache.read(path, what_has(kind, a_hood())) is None


def test_a_full_disk_is_reported_and_survived(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, content: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fdopen", Full)
    with pytest.warns(UserWarning, match="No space left on device.*GEOATTN_CACHE"):
        found = plans.plan(a_hood())
    assert same(found, plans.build(a_hood()))
    assert not list(folder.iterdir())  # no half of a file either


def test_the_disk_keeps_what_was_used_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hoods = [ga.geodesic(ga.grids.equiangular(13, 24), radius=r) for r in (20, 25, 30)]
    paths = []
    for age, hood in zip((300, 200, 100), hoods, strict=True):
        plans.plan(hood)
        (path,) = set(folder.iterdir()) - set(paths)
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
        paths.append(path)
    forget()
    plans.plan(hoods[0])  # read: used last now
    monkeypatch.setattr(cache, "DISK", sum(path.stat().st_size for path in paths) + 1)
    plans.plan(ga.geodesic(ga.grids.equiangular(13, 24), radius=22))
    assert [path.exists() for path in paths] == [True, False, True]


def test_clear_forgets_plans_in_memory_on_disk_and_what_was_made_of_them(folder: Path) -> None:
    forgotten: list[int] = []
    plans.clears(lambda: forgotten.append(1))
    first = plans.plan(a_hood())
    plans.clear()
    assert forgotten
    assert not list(folder.iterdir())
    assert plans.plan(a_hood()) is not first


@pytest.mark.parametrize("moment", ["while it is built", "while it is written"])
def test_what_was_begun_before_a_clearing_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    place = "build" if moment == "while it is built" else "write"
    usual = getattr(cache, place)

    def cleared_meanwhile(*arguments: object) -> object:
        result = usual(*arguments)
        plans.clear()
        if place == "write":  # and written at the very end, after all files were deleted
            usual(*arguments)
        return result

    monkeypatch.setattr(cache, place, cleared_meanwhile)
    plans.plan(a_hood())
    assert not list(folder.glob("*"))
    monkeypatch.setattr(cache, place, usual)
    forget()
    plans.plan(a_hood())
    assert list(folder.glob("*"))


def test_a_slow_plan_does_not_stop_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, release, build = threading.Event(), threading.Event(), cache.build

    def slow(hood: Neighborhood, *shape: int) -> object:
        if hood == a_hood():
            began.set()
            assert release.wait(60)
        return build(hood, *shape)

    monkeypatch.setattr(cache, "build", slow)
    thread = threading.Thread(target=plans.plan, args=(a_hood(),))
    thread.start()
    assert began.wait(60)
    plans.plan(ga.geodesic(ga.grids.equiangular(13, 24), radius=20))  # returns while the other is made
    assert thread.is_alive()
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            monkeypatch.setattr(cache, "build", build)
            os._exit(0 if plans.plan(a_hood()) is not None else 1)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        if ended == (0, 0):
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert ended == (child, 0), "the child waits for a lock of its parent"
    release.set()
    thread.join()


# --- a changed neighborhood never runs with the old plan -------------------------------------------------

PATTERN = """
import dataclasses
import numpy as np
import geoattn as ga
from geoattn.neighborhoods import Neighborhood, Rows

@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Shifted(Neighborhood, kind="shifted for the tests"):
    def rows(self, queries):
        keys = (np.asarray(queries) + SHIFT) % self.key_grid.size
        return Rows(np.arange(len(keys) + 1), keys.astype(np.int32))

    def transpose(self):
        return ga.from_edges(self.query_grid, self.key_grid, *self.to_csr()).transpose()
"""


def defined(shift: int) -> Neighborhood:
    """The pattern of a cell that was run with this shift."""
    names = {"__name__": "a_notebook", "SHIFT": shift}
    exec(PATTERN, names)
    grid = ga.grids.cartesian(70)
    return names["Shifted"](grid, grid)  # type: ignore[operator,no-any-return]


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "wrap", [lambda h: h, lambda h: h.without_keys(np.arange(70) == 99)], ids=["itself", "in another"]
)
def test_a_cell_run_again_is_another_neighborhood_of_the_same_content(
    folder: Path, backend: str, wrap: Callable[[Neighborhood], Neighborhood]
) -> None:
    x = torch.randn(1, 70, 1, 4)
    old = wrap(defined(3))
    for shift in (3, 5):
        hood = old if shift == 3 else wrap(defined(shift))
        assert hood.digest == old.digest  # content only
        out = ga.attention(x, x, x, hood, key_weights=None, backend=backend)
        torch.testing.assert_close(out, x.roll(-shift, 1))
    torch.testing.assert_close(ga.attention(x, x, x, old, key_weights=None, backend=backend), x.roll(-3, 1))
    assert not folder.exists(), "a class without a file has no plan on disk"


def test_a_pattern_inside_another_makes_it_another() -> None:
    products = [ga.product(defined(shift), ga.window(ga.grids.cartesian(5), 3)) for shift in (3, 5)]
    assert products[0].digest == products[1].digest
    assert products[0].identity != products[1].identity
    for product in products:
        np.testing.assert_array_equal(plans.edges(plans.plan(product)).indices, product.to_csr().indices)


def test_an_edited_module_gets_a_plan_of_its_own(folder: Path, tmp_path: Path) -> None:
    """In one process after another: the file decides, not a number that somebody remembers to raise."""
    program = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import geoattn as ga
from geoattn.plans import cache
cache.WORTH_KEEPING = 0.0
from a_pattern import Shifted
grid = ga.grids.cartesian(70)
hood = Shifted(grid, grid)
found = ga.plans.edges(ga.plans.plan(hood))
assert np.array_equal(found.indices, hood.to_csr().indices), "the old edges"
print(hood.digest, len(list(cache.cache_folder("plans").glob("*.plan"))))
"""
    files, digests = [], set()
    for shift in (3, 3, 5):
        source = tmp_path / "a_pattern.py"
        text = PATTERN.replace("SHIFT", str(shift))
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)  # as its times may be equal
        command = [sys.executable, "-c", program, str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        digest, count = run.stdout.split()
        digests.add(digest)
        files.append(int(count))
    assert files == [1, 1, 2]
    assert len(digests) == 1


def test_our_own_sources_are_part_of_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans.plan(a_hood())
    forget()
    monkeypatch.setattr(sources, "_own_digest", lambda: "another release")
    plans.plan(a_hood())
    assert len(list(folder.iterdir())) == 2
    forget()
    monkeypatch.setattr(sources, "_own_digest", lambda: None)  # edited since it was loaded
    plans.plan(ga.geodesic(ga.grids.equiangular(13, 24), radius=20))
    assert len(list(folder.iterdir())) == 2


def test_a_source_that_is_newer_than_what_runs_is_not_taken_for_it(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("x = 1")
    written = source.stat().st_mtime
    assert sources._files_digest((source,), written) is not None
    assert sources._files_digest((source,), written - 1) is None
