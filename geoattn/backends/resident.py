"""What outlives a call on a device: plans, log-weights, loaded kernels.

The call that first needs such memory may run while a CUDA graph is captured or warmed up, in inference mode,
or on one of autograd's threads. What it allocates itself would be part of that graph's pool, an inference
tensor, or bound to its stream. So what is kept is made :func:`elsewhere`: on a thread of its own, where
nothing of this holds, and it is whole when the call goes on.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Thread
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geoattn._lru import BoundedCache
from geoattn._value import Value
from geoattn.backends import driver
from geoattn.plans import clears

Item = TypeVar("Item")
Made = TypeVar("Made")


def elsewhere(device: torch.device, make: Callable[[], Made]) -> Made:
    """What ``make`` returns, called on a thread of its own with the device and a stream of its own current.

    All that it starts on the device has ended when this returns, so that every stream may read it. A capture
    that is under way goes on: it neither sees this work nor is ended by it.
    """
    made: list[Made] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with _apart(device):
                made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = Thread(target=run, name="geoattn uploads")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def uploaded(x: NDArray[Any], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A copy of an array on a device; for use :func:`elsewhere`."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(device=device, dtype=dtype)


@contextmanager
def _apart(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    if torch.version.cuda is not None and find_spec("cuda.bindings"):
        driver.tolerate_captures()
        index = torch.cuda.current_device() if device.index is None else device.index
        handle = driver.upload_stream(index)
        stream: torch.cuda.Stream = torch.cuda.ExternalStream(handle, device)  # type: ignore[no-untyped-call]
    else:  # on AMD, or without the driver's bindings: nothing can be made during a capture
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
        stream.synchronize()


def capturing(device: torch.device) -> bool:
    """Whether the current stream is captured into a graph, which will read what this call reads."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Resident(BoundedCache[Any, "_Kept[Item]"], Generic[Item]):
    """What was made of values (neighborhoods, relations, grids) and lies on a device.

    An item stays as long as the value lives that it was made of; beyond that within ``max_bytes``, the least
    recently used going first; and until ``geoattn.plans.clear()`` if a graph that was captured may read it.
    Nothing is made twice for being large.

    Parameters
    ----------
    max_bytes
        Bytes of items beyond which those of values that are gone make room.
    size
        Bytes of an item.
    """

    def __init__(self, max_bytes: int, size: Callable[[Item], int]) -> None:
        super().__init__(max_bytes, keep_newest=True)
        self._size = size
        clears(self.clear)

    def of(
        self, value: Value, device: torch.device, prepare: Callable[[], Callable[[], Item]], *more: Any
    ) -> Item:
        """The item of a value on a device; ``more`` tells apart several of one value.

        If there is none yet, ``prepare()`` is what makes it, called :func:`elsewhere`.
        """
        key = (value.identity, device, *more)
        kept = self.get(key)
        if kept is None:

            def made() -> _Kept[Item]:
                return _Kept(elsewhere(device, prepare()), value)

            kept = self.get_or_make(key, made, lambda kept: self._size(kept.item))
        elif kept.value() is None:  # an equal one holds it now
            kept.value = weakref.ref(value)
        if not kept.captured and capturing(device):
            kept.captured = True
        return kept.item

    def _may_go(self, key: Any, kept: _Kept[Item]) -> bool:
        return not (kept.captured or kept.value() is not None or capturing(key[1]))

    def _end(self, keys: Iterable[Any]) -> None:
        for device in {key[1] for key in keys if key[1].type == "cuda"}:
            torch.cuda.synchronize(device)  # some stream may still read what goes


class _Kept(Generic[Item]):
    """An item, the value that it was made of, and whether a captured graph may read it."""

    def __init__(self, item: Item, value: Value) -> None:
        self.item, self.value, self.captured = item, weakref.ref(value), False
