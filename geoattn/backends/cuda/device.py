"""Kernels on a device: loaded once per device, launched on torch's current stream."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch

from geoattn.backends.cuda.compiler import compiler, cubin
from geoattn.backends.cuda.variants import Variant

#: the kernels' copies (cp.async) and products (bfloat16, tf32) are there since this capability
OLDEST = (8, 0)
#: blocks of one launch
MOST_BLOCKS = 2**31 - 1


class DriverError(RuntimeError):
    """The CUDA driver refuses a call."""


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
        driver = _call("DriverGetVersion")
    except RuntimeError as error:
        return str(error)
    if driver // 1000 < chosen.cuda // 1000:
        return (
            f"the driver knows CUDA {_dotted(driver)}, older than {chosen.version}; "
            f"a newer driver, or NVRTC of CUDA {driver // 1000}, is needed"
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


def launch(variant: Variant, blocks: int, arguments: ctypes.Structure, device: torch.device) -> None:
    """Run a kernel on the device's current stream.

    The first launch of a variant on a device compiles (or reads) and loads it, which a stream
    capture does not allow: run the same shapes once before capturing a CUDA graph.

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
    with torch.cuda.device(device):
        index = torch.cuda.current_device()
        function = _function(variant, index)
        # a void** to the one argument, which the driver copies before it returns
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        stream = torch.cuda.current_stream(index).cuda_stream
        grid, block = (blocks, 1, 1), (variant.threads, 1, 1)
        settings = (*grid, *block, variant.shared_bytes, stream, ctypes.addressof(pointers), 0)
        _call("LaunchKernel", function, *settings, work=(variant, index))


@cache
def _function(variant: Variant, index: int) -> Any:
    """The kernel as loaded in the device's context, which is current."""
    from cuda.bindings import driver

    reason = unfit(index)
    if reason is not None:
        raise DriverError(reason)
    module = _call("ModuleLoadData", cubin(variant, architecture(index)), work=(variant, index))
    function = _call("ModuleGetFunction", module, variant.kernel.encode(), work=(variant, index))
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _call("FuncSetAttribute", function, attribute, variant.shared_bytes, work=(variant, index))
    return function


def architecture(device: torch.device | int) -> int:
    """Compute capability of a device, such as 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _call(name: str, *arguments: Any, work: tuple[Variant, int] | None = None) -> Any:
    """Call the driver; ``work``, a variant and the index of its device, is named in errors."""
    from cuda.bindings import driver

    result, *values = getattr(driver, f"cu{name}")(*arguments)
    if result != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(result)
        words = text.decode() if text else "no description"
        where = "" if work is None else f" for {work[0]} on cuda:{work[1]}"
        raise DriverError(f"cu{name} fails{where}: {result.name} ({words})")
    return values[0] if values else None


def _dot(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
