"""The CUDA driver, through ``cuda.bindings``: contexts, streams and the way of naming what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


class DriverError(RuntimeError):
    """The CUDA driver refuses a call."""


@cache
def bindings() -> Any:
    """The module ``cuda.bindings.driver``."""
    from cuda.bindings import driver

    return driver


def call(name: str, *arguments: Any, work: tuple[object, int] | None = None) -> Any:
    """``cu<name>(*arguments)`` without its status.

    ``work``, a kernel and the number of a device, is told in errors.

    Raises
    ------
    DriverError
        With the name of the call and the driver's words.
    """
    result, *values = getattr(bindings(), f"cu{name}")(*arguments)
    check(name, result, work)
    return values[0] if values else None


def check(name: str, result: Any, work: tuple[object, int] | None = None) -> None:
    """Raise what a call's status says if that is not success."""
    driver = bindings()
    if result is driver.CUresult.CUDA_SUCCESS or result == driver.CUresult.CUDA_SUCCESS:
        return
    _, text = driver.cuGetErrorString(result)
    words = text.decode() if text else "no description"
    where = "" if work is None else f" for {work[0]} on cuda:{work[1]}"
    raise DriverError(f"cu{name} fails{where}: {result.name} ({words})")


@cache
def primary(index: int) -> int:
    """The context of a device that torch works in: its primary one, held from now on."""
    call("Init", 0)
    return int(call("DevicePrimaryCtxRetain", call("DeviceGet", index)))


def is_current(index: int) -> bool:
    """Whether a device's primary context is the calling thread's."""
    return int(bindings().cuCtxGetCurrent()[1]) == primary(index)


@contextmanager
def current(index: int) -> Iterator[None]:
    """Within it, a device's primary context is the calling thread's.

    A thread that has started nothing on a device has none, such as those of autograd: torch makes it
    current with its own first call there, and the driver refuses all others before.
    """
    context = primary(index)
    if is_current(index):
        yield
        return
    call("CtxPushCurrent", bindings().CUcontext(context))
    try:
        yield
    finally:
        call("CtxPopCurrent")


def tolerate_captures() -> None:
    """Let the calling thread allocate, copy and load while another captures a graph, which goes on."""
    relaxed = bindings().CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    call("ThreadExchangeStreamCaptureMode", relaxed)


@cache
def upload_stream(index: int) -> int:
    """A stream of a device that nobody else has: torch's own go round, and one may be under capture."""
    with current(index):
        return int(call("StreamCreate", bindings().CUstream_flags.CU_STREAM_NON_BLOCKING))
