"""The CUDA backend on a CPU: the kernels' own sources, compiled by g++ against an emulator.

Everything but the compiler and the launch is the code that runs on a GPU. ``register()`` adds the
backend ``"emulated"``, which takes CPU tensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from geoattn import backends
from geoattn._files import cache_folder, whole
from geoattn._shipped import shipped
from geoattn.backends.cuda.arguments import Words
from geoattn.backends.cuda.backend import Cuda
from geoattn.backends.cuda.launches import Launch
from geoattn.backends.cuda.variants import Variant

HERE = Path(__file__).parent


class EmulationError(Exception):
    """What the emulator found wrong with a kernel."""


class Emulated(Cuda):
    """The CUDA backend with launches on the emulator.

    ``edits`` plant faults in the sources; ``seed`` shuffles threads and blocks; ``capability`` is that
    of the device, which decides how many rows and columns a block holds.
    """

    name = "emulated"
    device_type = "cpu"

    def __init__(
        self, edits: tuple[tuple[str, str, str], ...] = (), seed: int = 0, capability: int = 90
    ) -> None:
        self.edits = edits
        self.seed = seed
        self.capability = capability

    def unavailable(self) -> str | None:
        return None if shutil.which("g++") else "g++ is not installed"

    def architecture(self, device: torch.device) -> int:
        return self.capability

    def launch(self, launch: Launch, words: Words[int], *tensors: Tensor | float | None) -> None:
        arrays = [x for x in (*tensors, *launch.arrays) if isinstance(x, Tensor)]
        ranges = [address for x in arrays for address in extent(x)]
        variant = launch.variant
        message = kernel(variant, self.edits)(
            ctypes.c_void_p(words.buffer_info()[0]),
            ctypes.c_uint(launch.blocks),
            variant.threads,
            variant.shared_bytes,
            (ctypes.c_void_p * len(ranges))(*ranges),
            len(arrays),
            ctypes.c_uint(self.seed),
        )
        if message:
            raise EmulationError(f"{variant}: {message.decode()}")


def register() -> None:
    """Make ``backend="emulated"`` known to the operator."""
    backends.register("emulated", Emulated)


def extent(x: Tensor) -> tuple[int, int]:
    """First address of a tensor and the one after its last."""
    if x.numel() == 0:
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


@cache
def kernel(variant: Variant, edits: tuple[tuple[str, str, str], ...]):
    """The kernel as a function of (arguments, blocks, threads, shared bytes, arrays, count, seed).

    ``edits`` are (file, text, replacement): each text must occur in its file exactly once.
    """
    sources = {path.name: path.read_text() for path in sorted(shipped("cuda").glob("*.cu*"))}
    sources |= {path.name: path.read_text() for path in sorted(HERE.glob("emulator.*"))}
    for name, text, replacement in edits:
        assert sources[name].count(text) == 1, f"{text!r} occurs {sources[name].count(text)} times in {name}"
        sources[name] = sources[name].replace(text, replacement)
    definitions = [f"-DGEOATTN_{name}={value}" for name, value in variant.definitions]
    structure = variant.kernel.capitalize()
    sources["kernel.cpp"] = f"""
        #include "{variant.kernel}.cu"
        namespace emulator {{
        const char* launch(void (*)(const void*), const void*, u32, int, int, const char* const*, int,
                           unsigned);
        }}
        static void run(const void* arguments) {{ {variant.kernel}(*(const {structure}*)arguments); }}
        extern "C" const char* launch(const void* arguments, u32 blocks, int threads, int shared_bytes,
                                      const char* const* ranges, int n_ranges, unsigned seed) {{
            return emulator::launch(run, arguments, blocks, threads, shared_bytes, ranges, n_ranges, seed);
        }}"""
    library = _built(sources, ("emulator.cpp", "kernel.cpp"), definitions)
    function = ctypes.CDLL(str(library)).launch
    function.restype = ctypes.c_char_p
    return function


def _built(sources: dict[str, str], units: tuple[str, ...], definitions: list[str]) -> Path:
    """A shared library of the given units; units and libraries are kept by content."""
    options = ["g++", "-std=c++17", "-O1", "-fPIC", "-w", "-DGEOATTN_EMULATED"]
    folder = cache_folder("emulator")
    folder.mkdir(parents=True, exist_ok=True)

    def digest(*texts: str) -> str:
        return hashlib.sha256("\0".join([*options, *texts]).encode()).hexdigest()[:24]

    library = folder / f"{digest(*sources.values(), *definitions)}.so"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as workplace:
        for name, text in sources.items():
            (Path(workplace) / name).write_text(text)
        objects = []
        for unit in units:
            # the machine itself is the same for all kernels
            own = unit == "emulator.cpp"
            texts = (
                [sources[n] for n in ("emulator.cpp", "emulator.h", "device.cuh")] if own else [str(library)]
            )
            target = folder / f"{digest(unit, *texts)}.o"
            if not target.exists():
                _run([*options, *([] if own else definitions), "-c", unit, "-o", f"{unit}.o"], workplace)
                if own:
                    with whole(target) as part:
                        shutil.copy(Path(workplace) / f"{unit}.o", part)
            objects.append(str(target) if own else f"{unit}.o")
        _run(["g++", "-shared", *objects, "-o", "library.so"], workplace)
        with whole(library) as part:
            shutil.copy(Path(workplace) / "library.so", part)
    return library


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
