"""Kernels on a device: loaded once per device, launched on torch's current stream."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

import torch

from geoattn.backends import driver
from geoattn.backends.cuda.compiler import compiler, cubin
from geoattn.backends.cuda.variants import Variant
from geoattn.backends.resident import capturing, elsewhere
from geoattn.backends.torch_private import current_stream

#: the kernels' copies (cp.async) and products (bfloat16, tf32) are there since this capability
OLDEST = (8, 0)
#: blocks of one launch
MOST_BLOCKS = 2**31 - 1


@cache
def unavailable() -> str | None:
    """Why no CUDA device can run the kernels, or None."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device (no GPU, or no driver that fits this torch)"
    try:
        import cuda.bindings.driver  # noqa: F401
    except ImportError as error:
        return f"cuda.bindings cannot be imported ({error}); pip install cuda-bindings"
    try:
        chosen = compiler()
        version = driver.call("DriverGetVersion")
    except RuntimeError as error:
        return str(error)
    if version // 1000 < chosen.cuda // 1000:
        return (
            f"the driver knows CUDA {_dotted(version)}, older than {chosen.version}; "
            f"a newer driver, or NVRTC of CUDA {version // 1000}, is needed"
        )
    reasons = [unfit(index) for index in range(torch.cuda.device_count())]
    return None if None in reasons else "; ".join(reason for reason in reasons if reason)


@cache
def unfit(index: int) -> str | None:
    """Why one device cannot run the kernels, or None."""
    capability = torch.cuda.get_device_capability(index)
    label = f"cuda:{index} ({torch.cuda.get_device_name(index)}, capability {_dot(capability)})"
    if capability < OLDEST:
        return f"{label} is older than capability {_dot(OLDEST)}"
    if architecture(index) not in compiler().architectures():
        return f"{label} is not known to {compiler().version}"
    return None


def launch(variant: Variant, blocks: int, arguments: int, device: torch.device) -> None:
    """Run a kernel on the device's current stream; ``arguments`` is where its block of them lies.

    The first launch of a variant on a device compiles (or reads) and loads it; a graph that is being captured
    does not notice.

    Raises
    ------
    CompilationError
        If the kernel does not compile; with the log.
    DriverError
        If the driver refuses to load or to launch it.
    ValueError
        If the problem has more blocks than a launch may have.
    """
    if blocks == 0:
        return
    if blocks > MOST_BLOCKS:
        raise ValueError(f"{blocks} blocks exceed the {MOST_BLOCKS} of one launch; split the batch")
    index = device.index
    function = _functions.get((variant.number, index)) or _function(variant, index)
    # a void** to the one argument, which the driver copies before it returns
    pointers = _Pointers(arguments)
    grid, block = (blocks, 1, 1), (variant.threads, 1, 1)
    settings = (*grid, *block, variant.shared_bytes, current_stream(index), ctypes.addressof(pointers), 0)
    start = driver.bindings().cuLaunchKernel
    if driver.is_current(index):
        (result,) = start(function, *settings)
    else:
        with driver.current(index):
            (result,) = start(function, *settings)
    driver.check("LaunchKernel", result, (variant, index))


_Pointers = ctypes.c_void_p * 1
#: kernels as loaded in the context of a device, by the number of their variant
_functions: dict[tuple[int, int], Any] = {}


def _function(variant: Variant, index: int) -> Any:
    reason = unfit(index)
    if reason is not None:
        raise driver.DriverError(reason)
    device = torch.device("cuda", index)
    try:
        function = elsewhere(device, partial(_loaded, variant, index))
    except driver.DriverError as error:
        if not capturing(device):
            raise
        raise driver.DriverError(
            f"{error}, while a CUDA graph is captured; make the same call once before the capture"
        ) from error
    return _functions.setdefault((variant.number, index), function)


def _loaded(variant: Variant, index: int) -> Any:
    work = variant, index
    with driver.current(index):
        module = driver.call("ModuleLoadData", cubin(variant, architecture(index)), work=work)
        function = driver.call("ModuleGetFunction", module, variant.kernel.encode(), work=work)
        attribute = driver.bindings().CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.call("FuncSetAttribute", function, attribute, variant.shared_bytes, work=work)
    return function


@cache
def architecture(index: int) -> int:
    """Compute capability of a device, such as 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def _dot(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
