"""A machine with CUDA devices, of which nothing is there but the rules: what it is asked to do, it notes.

The driver's part keeps a stack of contexts and a capture mode for each thread, and refuses what a driver
refuses: calls that need a context where there is none, kernels of another context than the current one, and
allocations, copies, loads and waits while any stream is captured, unless the thread tolerates captures.
torch's part keeps each thread's device and stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import types
from typing import NamedTuple

import torch

from geoattn.backends import driver as our_driver
from geoattn.backends import resident
from geoattn.backends.cuda import device as our_device

GLOBAL, RELAXED = "global", "relaxed"


class Result:
    """One of the driver's results."""

    def __init__(self, name):
        self.name = name


class Note(NamedTuple):
    """A call, its thread, and the context and stream that were current there."""

    name: str
    arguments: tuple
    thread: int
    context: int
    stream: int


class Machine(types.ModuleType):
    """Stands in for ``cuda.bindings.driver`` and for what the package asks of ``torch.cuda``."""

    def __init__(self, capabilities, version=13000, failing=None):
        super().__init__("cuda.bindings.driver")
        self.capabilities, self.version, self.failing = capabilities, version, failing
        self.notes, self.structures, self.captured = [], [], set()
        self.broken_captures = 0
        self.functions = {}
        self.asked = []  # of torch, in words: whoever asks may bring a device up
        self.state = threading.local()
        self.streams = 0
        success = Result("CUDA_SUCCESS")
        self.CUresult = types.SimpleNamespace(CUDA_SUCCESS=success)
        self.CUfunction_attribute = types.SimpleNamespace(
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="most shared bytes"
        )
        self.CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=RELAXED)
        self.CUstream_flags = types.SimpleNamespace(CU_STREAM_NON_BLOCKING="non-blocking")
        self.CUcontext = int

    # -- what a thread has -----------------------------------------------------------------------------------

    def of_thread(self, name, default):
        return self.state.__dict__.setdefault(name, default)

    @property
    def contexts(self):
        return self.of_thread("contexts", [])

    @property
    def context(self):
        return self.contexts[-1] if self.contexts else 0

    @property
    def device(self):
        return self.of_thread("device", 0)

    def stream_of(self, index):
        """The current stream of a device: 1000 and its number unless another was chosen."""
        return self.of_thread("streams", {}).get(index, 1000 + index)

    def note(self, name, *arguments):
        thread = threading.get_ident()
        self.notes.append(Note(name, arguments, thread, self.context, self.stream_of(self.device)))

    def called(self, name):
        return [note for note in self.notes if note.name == name]

    # -- the driver ------------------------------------------------------------------------------------------

    def answer(self, name, *arguments, needs_context=True, unsafe=False, value=None):
        self.note(name, *arguments)
        if name == self.failing:
            return (Result("CUDA_ERROR_NO_BINARY_FOR_GPU"),)
        if needs_context and not self.context:
            return (Result("CUDA_ERROR_INVALID_CONTEXT"),)
        if unsafe and not self.tolerated():
            return (Result("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),)
        return (self.CUresult.CUDA_SUCCESS, value)

    def tolerated(self):
        """Whether the thread may do what can disturb a capture; if not, the captures are broken."""
        fine = not self.captured or self.of_thread("mode", GLOBAL) == RELAXED
        self.broken_captures += not fine
        return fine

    def cuInit(self, flags):
        return (self.CUresult.CUDA_SUCCESS,)

    def cuDriverGetVersion(self):
        return (self.CUresult.CUDA_SUCCESS, self.version)

    def cuGetErrorString(self, result):
        return self.CUresult.CUDA_SUCCESS, b"no kernel image is available"

    def cuDeviceGet(self, index):
        return self.CUresult.CUDA_SUCCESS, index

    def cuDevicePrimaryCtxRetain(self, device):
        return self.answer("retain", device, needs_context=False, value=100 + device)

    def cuCtxGetCurrent(self):
        return self.CUresult.CUDA_SUCCESS, self.context

    def cuCtxPushCurrent(self, context):
        self.contexts.append(context)
        return (self.CUresult.CUDA_SUCCESS,)

    def cuCtxPopCurrent(self):
        return self.CUresult.CUDA_SUCCESS, self.contexts.pop()

    def cuThreadExchangeStreamCaptureMode(self, mode):
        before, self.state.mode = self.of_thread("mode", GLOBAL), mode
        return self.CUresult.CUDA_SUCCESS, before

    def cuStreamCreate(self, flags):
        self.streams += 1
        return self.answer("stream", flags, unsafe=True, value=5000 + self.streams)

    def cuModuleLoadData(self, image):
        return self.answer("load", image, unsafe=True, value=f"module of {self.context}")

    def cuModuleGetFunction(self, module, name):
        function = f"function {len(self.functions)}"
        self.functions[function] = self.context
        return self.answer("function", module, name, value=function)

    def cuFuncSetAttribute(self, function, attribute, value):
        return self.answer("attribute", function, attribute, value)

    def cuLaunchKernel(self, *arguments):
        pointers = ctypes.cast(arguments[9], ctypes.POINTER(ctypes.c_void_p))
        self.structures.append(pointers[0])
        if self.context and self.functions[arguments[0]] != self.context:
            return (Result("CUDA_ERROR_INVALID_HANDLE"),)
        return self.answer("launch", *arguments)[:1]

    # -- torch -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def on_device(self, chosen):
        index = getattr(chosen, "index", chosen)
        before, self.state.device = self.device, index
        yield
        self.state.device = before

    @contextlib.contextmanager
    def on_stream(self, stream):
        streams = self.of_thread("streams", {})
        before = streams.get(stream.device.index)
        streams[stream.device.index] = stream.cuda_stream
        yield
        streams[stream.device.index] = before or 1000 + stream.device.index

    @contextlib.contextmanager
    def capture(self, index=0):
        """The current stream of this thread is captured."""
        self.captured.add(self.stream_of(index))
        yield
        self.captured.remove(self.stream_of(index))

    def is_capturing(self):
        return self.stream_of(self.device) in self.captured

    def wait(self, what):
        self.note("wait", what)
        assert self.tolerated(), "a wait breaks the capture"

    def allocate(self, x, device, dtype=None):
        """In the place of ``resident.uploaded``: a copy on the CPU, noted."""
        self.note("allocate", device)
        assert self.tolerated(), "an allocation breaks the capture"
        return torch.from_numpy(x.copy()).to(dtype=dtype)

    def say(self, what, value):
        self.asked.append(what)
        return value


class Stream:
    def __init__(self, handle, device, machine):
        self.cuda_stream, self.device, self.machine = handle, torch.device(device), machine

    def synchronize(self):
        self.machine.wait(self.cuda_stream)


def install(monkeypatch, *capabilities, **options):
    """Let this process have devices of some capabilities; returns the :class:`Machine`."""
    machine = Machine(capabilities, **options)
    bindings = types.ModuleType("cuda.bindings")
    bindings.driver = machine
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", machine)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, replacement in {
        "is_available": lambda: machine.say("available", True),
        "device_count": lambda: machine.say("count", len(capabilities)),
        "get_device_capability": lambda d: machine.say("capability", capabilities[getattr(d, "index", d)]),
        "get_device_name": lambda index: machine.say("name", f"device of {capabilities[index]}"),
        "device": machine.on_device,
        "stream": machine.on_stream,
        "current_device": lambda: machine.device,
        "ExternalStream": lambda handle, device: Stream(handle, device, machine),
        "is_current_stream_capturing": machine.is_capturing,
        "synchronize": machine.wait,
    }.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(our_device, "current_stream", machine.stream_of)
    monkeypatch.setattr(resident, "find_spec", lambda name: name)
    compiler = types.SimpleNamespace(version="nvrtc 13.0", cuda=13000, architectures=lambda: [80, 90])
    monkeypatch.setattr(our_device, "compiler", lambda: compiler)
    monkeypatch.setattr(
        our_device, "cubin", lambda variant, architecture: f"code for {architecture}".encode()
    )
    return machine


def forget():
    """Nothing of a machine is remembered."""
    for cached in (our_device.unfit, our_device.unavailable, our_device.architecture):
        cached.cache_clear()
    for cached in (our_driver.bindings, our_driver.primary, our_driver.upload_stream):
        cached.cache_clear()
    our_device._functions.clear()
