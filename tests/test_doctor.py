"""``geoattn doctor`` and ``geoattn cache``."""

import json
import os
import re

import pytest
import torch

import geoattn as ga
from geoattn.__main__ import main
from geoattn.commands import cache, doctor


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path / "cache"))
    for name, size in (("plans/a.plan", 1000), ("cpu/0123/b.nbc", 250), ("kernels/c.cubin", 50)):
        path = tmp_path / "cache" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    return tmp_path / "cache"


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_the_cache_is_listed_with_its_sizes(folder, capsys):
    assert main(["cache"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:4] for line in lines[2:]] == [
        ["plans", "1", "1", "kB"],
        ["cpu", "1", "250", "B"],
        ["kernels", "1", "50", "B"],
    ]
    assert len(left(folder)) == 3


def test_a_part_of_the_cache_is_cleared_or_all(folder, capsys):
    assert main(["cache", "--clear", "cpu"]) == 0
    assert "deleted of cpu: 1 files, 250 B" in capsys.readouterr().out
    assert left(folder) == ["kernels/c.cubin", "plans/a.plan"]
    assert not (folder / "cpu" / "0123").exists()
    assert main(["cache", "--clear"]) == 0
    assert left(folder) == []
    assert main(["cache", "--clear"]) == 0
    with pytest.raises(SystemExit):
        main(["cache", "--clear", "../.."])


def test_only_files_that_geoattn_wrote_are_deleted(folder, tmp_path):
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    for name in ("mine.plan", "deep/mine.nbc"):
        (other / name).write_text("mine")
    kept = ["plans/notes.txt", "plans/thesis/chapter/one.plan", "mine.plan"]
    for name in kept:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    os.symlink(other, folder / "plans" / "link")
    os.symlink(other / "mine.plan", folder / "plans" / "link.plan")
    assert main(["cache", "--clear"]) == 0
    assert left(other) == ["deep/mine.nbc", "mine.plan"]
    assert set(left(folder)) >= {*kept, "plans/link.plan"}


def test_a_folder_that_is_a_link_is_left_alone(folder, tmp_path, capsys):
    other = tmp_path / "other"
    os.rename(folder / "plans", other)
    os.symlink(other, folder / "plans")
    assert main(["cache", "--clear", "plans"]) == 2
    assert "is a link to" in capsys.readouterr().err
    assert left(other) == ["a.plan"]


def test_the_doctor_tells_versions_backends_caches_and_tests(capsys):
    assert main(["doctor", "--seconds", "0.2"]) == 0
    out = capsys.readouterr().out
    assert f"torch          {torch.__version__}" in re.sub(r" {2,}", " " * 10, out)
    for name, state in ga.backends().items():
        assert re.search(rf"^{name} +{re.escape(state)[:40]}", out, re.MULTILINE), name
    assert re.search(r"^cpu +available +chosen$", out, re.MULTILINE)
    assert re.search(r"^threads of torch.* \d+$", out, re.MULTILINE)
    assert re.search(r"^plans +[\d,]+ +[\d.]+ k?M?G?B", out, re.MULTILINE)
    assert re.search(r"^reference +cpu +\d+ +[\d.]+ +agrees$", out, re.MULTILINE)
    assert out.endswith("All is well.\n")


def test_the_doctor_finds_a_backend_that_computes_wrong(monkeypatch, capsys):
    reference = ga.backends.get("reference")
    actual = type(reference).forward

    def wrong(self, *args, **options):
        found = actual(self, *args, **options)
        return (
            found._replace(out=found.out * 1.001)
            if hasattr(found, "_replace")
            else (found[0] * 1.001, *found[1:])
        )

    monkeypatch.setattr(type(reference), "forward", wrong)
    monkeypatch.setattr(ga.backends, "AUTOMATIC", {"cpu": ("reference",)})
    assert main(["doctor", "--seconds", "1"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^reference +cpu .* WRONG: (out|gradient of \w+) is off by", out, re.MULTILINE)
    assert "reference on cpu: what it computes here is wrong" in out


def test_no_command_prints_json(capsys):
    for words in (["grids"], ["models"], ["backends"], ["cache"], ["doctor", "--seconds", "0"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
            json.loads(out)
        assert not re.search(r'^\s*[{\[]"', out, re.MULTILINE)


def test_sizes_are_said_as_people_say_them():
    assert [cache.shown(n) for n in (0, 999, 1500, 2_500_000, 3e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "3 GB",
    ]


def test_the_doctor_names_the_extra_of_what_is_missing(monkeypatch):
    monkeypatch.setattr(
        doctor, "version", lambda name: (_ for _ in ()).throw(doctor.PackageNotFoundError(name))
    )
    assert 'pip install "geoattn[xarray]"' in doctor._versions()
