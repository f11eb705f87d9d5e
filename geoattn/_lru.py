"""The one cache in memory: it forgets what was not used lately, bounded by bytes."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from threading import RLock
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")

_all: weakref.WeakSet[BoundedCache[Any, Any]] = weakref.WeakSet()


class BoundedCache(Generic[Key, Item]):
    """Keeps items until their sizes exceed ``max_bytes``; the least recently used go first.

    Threads may use it at once. A forked child finds no lock held, whatever its parent's other threads
    were doing: each step on the items is whole by itself.

    Parameters
    ----------
    max_bytes
        Sum of the sizes of the items that are kept.
    keep_newest
        Whether the newest item is kept even if it exceeds ``max_bytes`` by itself.
    """

    def __init__(self, max_bytes: int, *, keep_newest: bool = False) -> None:
        self.max_bytes, self.keep_newest = max_bytes, keep_newest
        self._items: OrderedDict[Key, tuple[Item, int]] = OrderedDict()
        self._start_over()
        _all.add(self)

    def _start_over(self) -> None:
        """Locks that nobody holds."""
        self._lock = RLock()  # an item's end may come back here from within
        self._making: dict[Key, RLock] = {}  # type: ignore[valid-type]

    def get(self, key: Key) -> Item | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Key, item: Item, size: int) -> None:
        """Keep ``item`` of ``size`` bytes; without ``keep_newest``, one above the budget is not kept."""
        with self._lock:
            self._items.pop(key, None)
            if size <= self.max_bytes or self.keep_newest:
                self._items[key] = item, size
            while self.nbytes > self.max_bytes and len(self._items) > self.keep_newest:
                self._items.popitem(last=False)

    def get_or_make(self, key: Key, make: Callable[[], Item], size: Callable[[Item], int]) -> Item:
        """The item, made if need be: once, by one thread, while others that ask for the same key wait.

        Those that ask for another key do not wait.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            own = self._making.setdefault(key, RLock())
        try:
            with own:
                found = self.get(key)  # another thread may have made it meanwhile
                if found is None:
                    found = make()
                    self.put(key, found, size(found))
                return found
        finally:
            with self._lock:
                self._making.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._items.clear()

    @property
    def nbytes(self) -> int:
        """Sum of the sizes of what is kept."""
        with self._lock:
            return sum(size for _, size in self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: Key) -> bool:
        return key in self._items


def _start_over() -> None:
    for cache in list(_all):
        cache._start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)
