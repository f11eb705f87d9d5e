"""Kernel sources to machine code, and the folder that keeps it; no device is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings

import pytest
import torch

from geoattn.backends.cuda import compiler, variants
from geoattn.backends.cuda.compiler import CompilationError, Compiled, Compiler, Nvcc, Nvrtc

SMALL = variants.delta(torch.bfloat16)
FORWARD = variants.forward(torch.bfloat16, 16, 16, True, 80)
ELF = b"\x7fELF"


def nvrtc():
    try:
        return Nvrtc()
    except Exception as error:
        pytest.skip(f"NVRTC cannot be loaded: {error}")


class Counting(Compiler):
    """Makes other bytes at every compilation."""

    version, cuda = "counting 1.0", 13000

    def __init__(self):
        self.count = 0

    def architectures(self):
        return [80]

    def compile(self, variant, architecture):
        self.count += 1
        return Compiled(f"{variant} for {architecture}, number {self.count}".encode(), "")


@pytest.fixture
def counting(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    counting = Counting()
    monkeypatch.setattr(compiler, "compiler", lambda: counting)
    return counting


def test_a_kernel_is_compiled_once_and_then_read(counting):
    first = compiler.cubin(SMALL, 80)
    assert compiler.cubin(SMALL, 80) == first
    assert counting.count == 1


def test_compiler_options_architecture_and_sources_each_make_a_file_of_their_own(counting, monkeypatch):
    made = {compiler.cubin(SMALL, 80), compiler.cubin(SMALL, 90), compiler.cubin(FORWARD, 80)}
    counting.version = "counting 1.1"
    made.add(compiler.cubin(SMALL, 80))
    monkeypatch.setattr(compiler, "sources", lambda: {"delta.cu": "// another text"})
    made.add(compiler.cubin(SMALL, 80))
    assert len(made) == counting.count == 5


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:70] + b"?" + b[71:], lambda b: b""])
def test_a_damaged_file_is_compiled_anew_and_replaced(counting, tmp_path, damage):
    compiler.cubin(SMALL, 80)
    (file,) = (tmp_path / "kernels").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again = compiler.cubin(SMALL, 80)
    assert counting.count == 2
    assert compiler.cubin(SMALL, 80) == again
    assert counting.count == 2


def test_a_folder_that_cannot_be_written_warns_and_names_the_way_out(counting, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot be kept in .*GEOATTN_CACHE names another folder"):
        assert compiler.cubin(SMALL, 80)


def test_no_part_of_a_file_is_left_behind(counting, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiler.cubin(SMALL, 80)
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".cubin"]


RACE = """
import sys, torch
from geoattn.backends.cuda import compiler, variants
sys.stdin.read(1)  # all start at once
print(len(compiler.cubin(variants.delta(torch.bfloat16), 80)))
"""


def test_processes_that_compile_the_same_kernel_at_once_leave_one_whole_file(monkeypatch, tmp_path):
    nvrtc()
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        racer.stdin.write("x")
        racer.stdin.flush()
    sizes = {racer.communicate()[0] for racer in racers}
    assert all(racer.returncode == 0 for racer in racers)
    assert len(sizes) == 1
    (file,) = (tmp_path / "kernels").iterdir()
    assert compiler._kept(file).startswith(ELF)


def test_nvrtc_makes_machine_code_and_tells_what_it_uses():
    made = nvrtc().compile(FORWARD, 80)
    assert made.cubin.startswith(ELF)
    assert 16 < made.registers <= FORWARD.most_registers
    assert made.spilled_bytes == 0


def test_nvcc_makes_machine_code_where_nvrtc_is_missing(monkeypatch):
    path = shutil.which("nvcc") or shutil.which("nvcc", path=compiler._toolkit())
    if path is None or shutil.which("g++") is None:
        pytest.skip("there is no nvcc, or no g++ that it calls")

    def missing():
        raise ImportError("no NVRTC here")

    monkeypatch.setattr(compiler, "Nvrtc", missing)
    chosen = compiler._found.__wrapped__()
    assert isinstance(chosen, Nvcc)
    assert chosen.version.startswith("nvcc ")
    assert 80 in chosen.architectures()
    made = chosen.compile(SMALL, 80)
    assert made.cubin.startswith(ELF)
    assert made.registers > 0


def test_without_any_compiler_the_reason_names_the_packages(monkeypatch):
    def missing():
        raise ImportError("no NVRTC here")

    monkeypatch.setattr(compiler, "Nvrtc", missing)
    looked = []
    monkeypatch.setattr(shutil, "which", lambda name, **_: looked.append(name))
    compiler._found.cache_clear()
    try:
        for _ in range(3):
            with pytest.raises(RuntimeError, match=r"no NVRTC here.*no nvcc.*pip install cuda-bindings"):
                compiler.compiler()
    finally:
        compiler._found.cache_clear()
    assert looked == ["nvcc", "nvcc"], "on the path and in the toolkit, once in a process"


def test_an_error_in_a_kernel_shows_variant_architecture_and_log(monkeypatch):
    chosen = nvrtc()
    broken = dict(compiler.sources())
    broken["delta.cu"] = "this is no kernel;"
    monkeypatch.setattr(compiler, "sources", lambda: broken)
    with pytest.raises(
        CompilationError, match=r"(?s)delta element=BFloat16.* for sm_80.*delta\.cu\(1\): error"
    ):
        chosen.compile(SMALL, 80)
