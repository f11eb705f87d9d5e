"""The thread pool of the CPU backend: forks, concurrent callers, failures; and the code cache."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import geoattn as ga
from geoattn.backends.cpu import compiled


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


HOOD = ga.window(ga.grids.cartesian((48, 48)), 7)


def operands(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 48, 48, 4, 16, generator=generator) for _ in range(3)]


def attend(seed: int) -> torch.Tensor:
    return ga.attention(*operands(seed), HOOD, backend="cpu")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_the_same(two_threads):
    q, k, v = operands(0)
    expected = ga.attention(q, k, v, HOOD, backend="cpu")  # starts the pool in the parent
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        # torch's own parallel loops do not survive a fork: only the attention runs here
        signal.alarm(60)
        found = ga.attention(q, k, v, HOOD, backend="cpu")
        os.write(writer, b"1" if np.array_equal(found.numpy(), expected.numpy()) else b"0")
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    os.close(reader)


def test_callers_in_several_threads_do_not_disturb_each_other(two_threads):
    expected = [attend(seed) for seed in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for found, right in zip(pool.map(attend, range(6)), expected, strict=True):
                assert torch.equal(found, right)


PROGRAM = """
import logging, time, torch, geoattn as ga
hood = ga.window(ga.grids.cartesian((8, 8)), 3)
q = torch.randn(1, 8, 8, 1, 4)
start = time.perf_counter()
ga.attention(q, q, q, hood, backend="cpu")
print(time.perf_counter() - start)
"""


@pytest.mark.slow
def test_compilation_is_announced_and_kept(tmp_path):
    environment = {**os.environ, "GEOATTN_CACHE": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        for _ in range(2)
    ]
    assert "compiles its CPU kernels" in runs[0].stderr
    assert str(tmp_path) in runs[0].stderr
    assert "compiles" not in runs[1].stderr
    assert float(runs[1].stdout) < float(runs[0].stdout)


def test_what_is_compiled_later_is_announced_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled._Cache, "compiled", -math.inf)

    @compiled.task
    def nothing(like, block):
        pass

    for like in (np.int64(1), np.float64(1)):  # at once: one message
        nothing.of(like)
    assert caplog.text.count("compiles its CPU kernels") == 1
    monkeypatch.setattr(compiled._Cache, "compiled", compiled._Cache.compiled - 2 * compiled._PAUSE)
    nothing.of(np.float32(1))
    nothing.of(np.float32(1))
    assert caplog.text.count("compiles its CPU kernels") == 2


@pytest.mark.parametrize("collects", [True, False])
def test_compilation_leaves_the_collector_of_cycles_as_it_was(tmp_path, monkeypatch, collects):
    monkeypatch.setenv("GEOATTN_CACHE", str(tmp_path))
    seen = []
    monkeypatch.setattr(compiled._Cache, "save_overload", lambda *_: seen.append(gc.isenabled()))

    @compiled.task
    def nothing(like, block):
        pass

    before = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        nothing.of(np.int64(1))
        assert gc.isenabled() == collects
        with pytest.raises(KeyError):
            nothing.of(np.int8(1))  # no kind of a kernel
        assert gc.isenabled() == collects
    finally:
        (gc.enable if before else gc.disable)()
    assert seen[0] is False


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(os, "geteuid") or os.geteuid() == 0,
    reason="everything is writable here",
)
def test_without_a_writable_cache_it_compiles_anew_and_says_so(tmp_path):
    tmp_path.chmod(0o500)
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "GEOATTN_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "anew in each process" in run.stderr


def kernel_files(folder):
    return sorted((folder / "cpu").rglob("*.nbc"))


def run_kernel(folder, extra="", **options):
    return subprocess.run(
        [sys.executable, "-c", extra + PROGRAM],
        env={**os.environ, "GEOATTN_CACHE": str(folder)},
        capture_output=True,
        text=True,
        **options,
    )


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm") / "cache"
    run_kernel(folder, check=True)
    return folder


@pytest.fixture
def copied(warm, tmp_path):
    shutil.copytree(warm, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "another's"])
def test_damaged_kernels_are_compiled_anew_and_replaced(copied, damage):
    files = {path: path.read_bytes() for path in kernel_files(copied)}
    contents = list(files.values())
    for number, (path, content) in enumerate(files.items()):
        middle = len(content) // 2
        path.write_bytes(
            {
                "empty": b"",
                "cut": content[:middle],
                "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
                "another's": contents[number - 1],
            }[damage]
        )
    found = run_kernel(copied)
    assert found.returncode == 0, found.stderr
    assert "compiles its CPU kernels" in found.stderr
    assert "compiles" not in run_kernel(copied, check=True).stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="this system has no owners and modes")
def test_kernels_that_others_could_have_written_are_not_run(copied):
    for path in kernel_files(copied):
        path.chmod(0o666)
    found = run_kernel(copied, check=True)
    assert "are not read, and compiled anew" in found.stderr
    assert "can be written by others" in found.stderr


@pytest.mark.slow
def test_a_full_disk_is_a_warning(tmp_path):
    full = "import errno, os\ndef replace(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
    found = run_kernel(tmp_path, full + "os.replace = replace\n", check=True)
    assert "No space left on device" in found.stderr
    assert "anew in each process" in found.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_two_versions_share_a_cache(copied):
    before = {path: path.read_bytes() for path in kernel_files(copied)}
    other = "import numba\nnumba.__version__ += '.other'\n"
    assert "compiles" in run_kernel(copied, other, check=True).stderr
    assert len(kernel_files(copied)) == 2 * len(before)
    for version in ("", other):
        assert "compiles" not in run_kernel(copied, version, check=True).stderr
    assert all(path.read_bytes() == content for path, content in before.items())


TWENTY = """
import hashlib, json, os, torch, geoattn as ga
from geoattn.backends.cpu import backend, compiled
from geoattn.plans import cache
cache.WORTH_KEEPING = 0.0
torch.set_num_threads(1)
save, saved = compiled._Cache.save_overload, []
compiled._Cache.save_overload = lambda *arguments: (saved.append(None), save(*arguments))
pipes = []
for _ in range(20):
    reader, writer = os.pipe()
    if os.fork() == 0:
        hood = ga.geodesic(ga.grids.equiangular(13, 24), radius=25.0)
        q = torch.linspace(-1, 1, 13 * 24 * 8).view(1, 13, 24, 1, 8)
        out = ga.attention(q, q, q, hood, backend="cpu")
        os.write(writer, json.dumps([hashlib.sha256(out.numpy()).hexdigest(), len(saved)]).encode())
        os._exit(0)
    os.close(writer)
    pipes.append(reader)
print(json.dumps([json.loads(os.read(reader, 1000)) for reader in pipes]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_twenty_processes_on_a_cold_cache_compile_each_kernel_once(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", TWENTY],
        env={**os.environ, "GEOATTN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    results, compiled = zip(*json.loads(run.stdout), strict=True)
    assert len(results) == 20
    assert len(set(results)) == 1
    assert sum(compiled) == len(kernel_files(tmp_path)) > 0
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix not in (".nbc", ".plan")]
    assert not left
