"""The page on the commands: every command of it runs, in its order, and every command is on it."""

import re
import shlex
from pathlib import Path

import pytest

from geoattn.__main__ import main
from geoattn.commands.table import COMMANDS

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_the_commands_of_the_page_run_as_they_stand(tmp_path, monkeypatch, capsys):
    for module in ("xarray", "zarr", "lightning", "jsonargparse", "matplotlib"):
        pytest.importorskip(module, reason="the commands need it")
    monkeypatch.chdir(tmp_path)
    names, ran = {}, 0
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, PAGE.name, "exec"), names)
            continue
        for line in block.splitlines():
            program, *words = shlex.split(line)
            assert program == "geoattn"
            assert main(words) == 0, (line, capsys.readouterr().err)
            ran += 1
    assert ran > 10
    said = capsys.readouterr().out
    assert "grid: equiangular grid 19×36, with poles" in said
    for name in ("statistics.json", "scores.nc", "scores.png", "map.png", "series.png", "spectrum.png"):
        assert (tmp_path / name).stat().st_size > 0


def test_every_command_is_on_the_page():
    text = PAGE.read_text()
    for name in COMMANDS:
        assert f"geoattn {name}" in text, name
