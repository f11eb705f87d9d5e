"""What the launcher asks of the CUDA driver, heard by a driver that only takes notes."""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types

import pytest
import torch

import geoattn as ga
from geoattn import backends
from geoattn.backends.cuda import arguments, device, variants
from geoattn.backends.cuda.backend import Cuda

VARIANT = variants.forward(torch.bfloat16, 64, 64, True, 80)


class Result:
    """One of the driver's results."""

    def __init__(self, name):
        self.name = name


class NoteTaking(types.ModuleType):
    """Stands in for ``cuda.bindings.driver``: notes every call, and fails where it is told to."""

    def __init__(self, failing=None):
        super().__init__("cuda.bindings.driver")
        self.failing, self.calls, self.structures = failing, [], []
        self.CUresult = types.SimpleNamespace(CUDA_SUCCESS=Result("CUDA_SUCCESS"))
        self.CUfunction_attribute = types.SimpleNamespace(
            CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="most shared bytes"
        )

    def note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.failing:
            return (Result("CUDA_ERROR_NO_BINARY_FOR_GPU"),)
        return (self.CUresult.CUDA_SUCCESS, f"{name} {len(self.calls)}")

    def cuDriverGetVersion(self):
        return (self.CUresult.CUDA_SUCCESS, self.version)

    def cuGetErrorString(self, result):
        return self.CUresult.CUDA_SUCCESS, b"no kernel image is available"

    def cuModuleLoadData(self, image):
        return self.note("load", image)

    def cuModuleGetFunction(self, module, name):
        return self.note("function", module, name)

    def cuFuncSetAttribute(self, function, attribute, value):
        return self.note("attribute", function, attribute, value)

    def cuLaunchKernel(self, *arguments):
        pointers = ctypes.cast(arguments[9], ctypes.POINTER(ctypes.c_void_p))
        self.structures.append(pointers[0])
        return self.note("launch", *arguments)


class Devices:
    """torch's view of some devices, of which one is current."""

    def __init__(self, *capabilities):
        self.capabilities, self.current = capabilities, 0

    @contextlib.contextmanager
    def device(self, chosen):
        before, self.current = self.current, chosen.index
        yield
        self.current = before


@pytest.fixture
def machine(monkeypatch):
    """Prepare a machine with devices of some capabilities, and a driver that takes notes."""

    def prepare(*capabilities, failing=None, cuda=13000):
        driver, devices = NoteTaking(failing), Devices(*capabilities)
        driver.version = cuda
        bindings = types.ModuleType("cuda.bindings")
        bindings.driver = driver
        monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        for name, replacement in {
            "is_available": lambda: True,
            "device_count": lambda: len(capabilities),
            "get_device_capability": lambda d: capabilities[getattr(d, "index", d)],
            "get_device_name": lambda index: f"device of {capabilities[index]}",
            "device": devices.device,
            "current_device": lambda: devices.current,
            "current_stream": lambda index: types.SimpleNamespace(cuda_stream=1000 + index),
        }.items():
            monkeypatch.setattr(torch.cuda, name, replacement)
        compiler = types.SimpleNamespace(version="nvrtc 13.0", cuda=13000, architectures=lambda: [80, 90])
        monkeypatch.setattr(device, "compiler", lambda: compiler)
        monkeypatch.setattr(
            device, "cubin", lambda variant, architecture: f"code for {architecture}".encode()
        )
        return driver

    yield prepare
    device.unfit.cache_clear()
    device._function.cache_clear()


@pytest.fixture(autouse=True)
def nothing_remembered():
    device.unfit.cache_clear()
    device._function.cache_clear()


def test_a_launch_loads_once_and_runs_on_the_current_stream(machine):
    driver = machine((8, 0))
    structure = arguments.Forward(scale=arguments.Scale.of(0.25), batch=3)
    for _ in range(2):
        device.launch(VARIANT, 77, structure, torch.device("cuda", 0))
    names = [call[0] for call in driver.calls]
    assert names == ["load", "function", "attribute", "launch", "launch"]
    assert driver.calls[0][1] == b"code for 80"
    assert driver.calls[1][2] == b"forward"
    assert driver.calls[2][2:] == ("most shared bytes", VARIANT.shared_bytes)
    function, *grid = driver.calls[3][1:10]
    assert function == "function 2"
    assert grid == [77, 1, 1, VARIANT.threads, 1, 1, VARIANT.shared_bytes, 1000]
    found = arguments.Forward.from_address(driver.structures[0])
    assert (found.scale.all, found.batch) == (0.25, 3)


def test_a_warm_launch_asks_nothing_but_to_launch(machine):
    """Loading or setting anything would end the capture of a CUDA graph."""
    driver = machine((9, 0))
    device.launch(VARIANT, 1, arguments.Forward(), torch.device("cuda", 0))
    driver.calls.clear()
    device.launch(VARIANT, 1, arguments.Forward(), torch.device("cuda", 0))
    assert [call[0] for call in driver.calls] == ["launch"]


def test_each_device_gets_code_and_stream_of_its_own(machine):
    driver = machine((8, 0), (9, 0))
    for index in (0, 1):
        device.launch(VARIANT, 1, arguments.Forward(), torch.device("cuda", index))
    assert [call[1] for call in driver.calls if call[0] == "load"] == [b"code for 80", b"code for 90"]
    assert [call[9] for call in driver.calls if call[0] == "launch"] == [1000, 1001]


def test_no_blocks_are_no_launch_and_too_many_are_refused(machine):
    driver = machine((8, 0))
    device.launch(VARIANT, 0, arguments.Forward(), torch.device("cuda", 0))
    assert driver.calls == []
    with pytest.raises(ValueError, match=r"2147483648 blocks exceed .* split the batch"):
        device.launch(VARIANT, 2**31, arguments.Forward(), torch.device("cuda", 0))


@pytest.mark.parametrize(
    ("failing", "name"),
    [
        ("load", "cuModuleLoadData"),
        ("function", "cuModuleGetFunction"),
        ("attribute", "cuFuncSetAttribute"),
        ("launch", "cuLaunchKernel"),
    ],
)
def test_what_the_driver_refuses_is_an_error_with_variant_device_and_its_words(machine, failing, name):
    machine((8, 0), failing=failing)
    with pytest.raises(
        device.DriverError,
        match=rf"{name} fails for forward element=BFloat16 score_dim=64.* on cuda:0: "
        r"CUDA_ERROR_NO_BINARY_FOR_GPU \(no kernel image",
    ):
        device.launch(VARIANT, 1, arguments.Forward(), torch.device("cuda", 0))


def test_of_several_devices_only_the_unfit_one_is_refused(machine):
    machine((7, 5), (9, 0))
    assert Cuda().unavailable() is None
    old, new = (types.SimpleNamespace(type="cuda", index=index) for index in (0, 1))

    def refusal(where):
        x = types.SimpleNamespace(device=where, dtype=torch.bfloat16, shape=(1, 4, 1, 64))
        return Cuda().refuses(x, x, x, None)

    assert "cuda:0" in refusal(old)
    assert "older than capability 8.0" in refusal(old)
    assert refusal(new) is None


def test_a_machine_whose_every_device_is_unfit_says_so_of_each(machine):
    machine((7, 0), (12, 9))
    reason = Cuda().unavailable()
    assert "cuda:0" in reason
    assert "older than capability 8.0" in reason
    assert "cuda:1" in reason
    assert "not known to nvrtc 13.0" in reason


def test_an_old_driver_is_named_with_the_way_out(machine):
    machine((9, 0), cuda=12080)
    assert "the driver knows CUDA 12.8, older than nvrtc 13.0" in Cuda().unavailable()


def test_without_cuda_the_status_tells_why():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    status = backends.status()
    assert "CUDA" in status["cuda"]
    assert status["cpu"] == status["reference"] == "available"


def test_no_variant_asks_for_more_shared_memory_than_every_device_grants():
    for architecture in (80, 86, 90, 100, 120):
        for variant in variants.every(architecture):
            assert variant.shared_bytes <= variants.MOST_SHARED_BYTES, str(variant)


def test_cuda_tensors_go_to_the_kernels_and_those_of_dense_attention_to_torch(machine):
    machine((9, 0))
    grid = ga.grids.cartesian((4, 4))
    device = types.SimpleNamespace(type="cuda", index=0)
    x = types.SimpleNamespace(device=device, dtype=torch.bfloat16, shape=(1, 16, 1, 64))
    assert backends.choose(None, x, x, x, ga.window(grid, 3)).name == "cuda"
    assert backends.choose(None, x, x, x, ga.everything(grid)).name == "sdpa"
