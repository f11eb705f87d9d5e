"""Kernel sources to machine code: by NVRTC, which comes with torch, or by nvcc; kept on disk.

Machine code (cubin), never PTX: a driver runs machine code of any toolkit of its own major version,
PTX only of toolkits that are not newer than itself.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from geoattn._files import Refused, cache_folder, read_checked, write_checked
from geoattn._shipped import shipped
from geoattn._warning import warn
from geoattn.backends.cuda.variants import Variant


class CompilationError(RuntimeError):
    """A kernel does not compile; the message ends with the compiler's log."""


class Compiled(NamedTuple):
    """Machine code of a kernel, and what the compiler says of its use of the machine."""

    cubin: bytes
    log: str

    @property
    def registers(self) -> int:
        """Registers of a thread."""
        return self._number(r"Used (\d+) registers")

    @property
    def spilled_bytes(self) -> int:
        """Bytes of registers that a thread keeps in memory."""
        return self._number(r"(\d+) bytes spill stores") + self._number(r"(\d+) bytes spill loads")

    def _number(self, pattern: str) -> int:
        found = re.search(pattern, self.log)
        if found is None:
            raise ValueError(f"the compiler's log says nothing of {pattern!r}:\n{self.log}")
        return int(found[1])


class Compiler(ABC):
    """A compiler of CUDA C++."""

    #: name and version; enters the names of kept files
    version: str
    #: CUDA version as the driver counts, such as 13000 for 13.0
    cuda: int

    @abstractmethod
    def architectures(self) -> list[int]:
        """Compute capabilities that it compiles for, such as 90 for 9.0."""

    @abstractmethod
    def compile(self, variant: Variant, architecture: int) -> Compiled:
        """Compile anew.

        Raises
        ------
        CompilationError
            With the compiler's log.
        """


class Nvrtc(Compiler):
    """NVRTC through ``cuda.bindings``: no toolkit, no host compiler, no process."""

    def __init__(self) -> None:
        from cuda.bindings import nvrtc

        self._nvrtc = nvrtc
        major, minor = self._call("Version")
        self.version = f"nvrtc {major}.{minor}"
        self.cuda = 1000 * major + 10 * minor

    def architectures(self) -> list[int]:
        return list(self._call("GetSupportedArchs"))

    def compile(self, variant: Variant, architecture: int) -> Compiled:
        texts = sources()
        main = f"{variant.kernel}.cu"
        headers = [name for name in texts if name.endswith(".cuh")]
        program = self._call(
            "CreateProgram",
            texts[main].encode(),
            main.encode(),
            len(headers),
            [texts[name].encode() for name in headers],
            [name.encode() for name in headers],
        )
        try:
            chosen = [*options(variant, architecture), "--ptxas-options=-v"]
            (result,) = self._nvrtc.nvrtcCompileProgram(
                program, len(chosen), [option.encode() for option in chosen]
            )
            log = self._read("ProgramLog", program).decode(errors="replace").strip("\0\n ")
            if result != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
                raise CompilationError(
                    f"{self.version} fails on {variant} for sm_{architecture}: {result.name}\n{log}"
                )
            return Compiled(self._read("CUBIN", program), log)
        finally:
            self._nvrtc.nvrtcDestroyProgram(program)

    def _read(self, what: str, program: Any) -> bytes:
        buffer = b" " * int(self._call(f"Get{what}Size", program))
        self._call(f"Get{what}", program, buffer)
        return buffer

    def _call(self, name: str, *arguments: Any) -> Any:
        result, *values = getattr(self._nvrtc, f"nvrtc{name}")(*arguments)
        if result != self._nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"nvrtc{name} fails: {result.name}")
        return values[0] if len(values) == 1 else values


class Nvcc(Compiler):
    """The toolkit's compiler, where there is one but no NVRTC."""

    def __init__(self, path: str) -> None:
        self.path = path
        found = re.search(r"release (\d+)\.(\d+), V([\d.]+)", self._run("--version").stdout)
        if found is None:
            raise RuntimeError(f"{path} --version tells no version")
        self.version = f"nvcc {found[3]}"
        self.cuda = 1000 * int(found[1]) + 10 * int(found[2])

    def architectures(self) -> list[int]:
        return [int(x) for x in re.findall(r"sm_(\d+)\b", self._run("--list-gpu-code").stdout)]

    def compile(self, variant: Variant, architecture: int) -> Compiled:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in sources().items():
                (Path(folder) / name).write_text(text)
            target = Path(folder) / "kernel.cubin"
            chosen = [*options(variant, architecture), "-Xptxas=-v", "-cubin", "-o", str(target)]
            done = self._run(*chosen, str(Path(folder) / f"{variant.kernel}.cu"))
            if done.returncode:
                raise CompilationError(
                    f"{self.version} fails on {variant} for sm_{architecture}\n{done.stdout}{done.stderr}"
                )
            return Compiled(target.read_bytes(), done.stderr)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.path, *arguments], capture_output=True, text=True, check=False)


def options(variant: Variant, architecture: int) -> list[str]:
    """Options that both compilers take."""
    definitions = [f"-DGEOATTN_{name}={value}" for name, value in variant.definitions]
    return ["-std=c++17", f"-arch=sm_{architecture}", *definitions]


@cache
def sources() -> dict[str, str]:
    """The kernel sources by file name."""
    return {path.name: path.read_text() for path in sorted(shipped("cuda").glob("*.cu*"))}


def compiler() -> Compiler:
    """NVRTC where it can be loaded, else nvcc; looked for once in a process.

    Raises
    ------
    RuntimeError
        If there is neither; the message says what was looked for.
    """
    found = _found()
    if isinstance(found, str):
        raise RuntimeError(
            f"NVRTC cannot be loaded ({found}) and there is no nvcc on the path; "
            "pip install cuda-bindings nvidia-cuda-nvrtc gives NVRTC"
        )
    return found


@cache
def _found() -> Compiler | str:
    """The compiler, or why NVRTC is not there and neither is nvcc."""
    try:
        return Nvrtc()
    except Exception as error:  # a missing library is reported in a different way by each version
        nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=_toolkit())
        return str(error) if nvcc is None else Nvcc(nvcc)


def _toolkit() -> str:
    root = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return str(Path(root) / "bin")


def cubin(variant: Variant, architecture: int) -> bytes:
    """Machine code of a kernel: from disk, else compiled and kept there.

    Files lie in the folder ``kernels`` of geoattn's cache (see the environment variable
    ``GEOATTN_CACHE``), named by all that their content depends on. Processes that compile the same
    kernel at the same time do the work twice, and each leaves a whole file.
    """
    chosen = compiler()
    parts = [chosen.version, *options(variant, architecture), *(f"{n}\0{t}" for n, t in sources().items())]
    name = hashlib.sha256("\0".join([variant.kernel, *parts]).encode()).hexdigest()[:32]
    path = cache_folder("kernels") / f"{name}.cubin"
    kept = _kept(path)
    if kept is None:
        kept = chosen.compile(variant, architecture).cubin
        _keep(path, kept)
    return kept


def _kept(path: Path) -> bytes | None:
    """The content of a file that :func:`_keep` wrote; None if there is none, or it is damaged or foreign."""
    try:
        return read_checked(path)
    except Refused as reason:
        warn(f"compiled CUDA kernels are not read, and compiled anew: {reason}", RuntimeWarning)
    except OSError:
        pass
    return None


def _keep(path: Path, content: bytes) -> None:
    """Write a file, with its checksum ahead, so that readers see all of it or none."""
    try:
        write_checked(content, path)
    except OSError as error:
        warn(
            f"compiled CUDA kernels cannot be kept in {path.parent} ({error}), and each process compiles "
            "them anew; the environment variable GEOATTN_CACHE names another folder"
        )
