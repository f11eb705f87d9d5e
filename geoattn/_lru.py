"""The one cache in memory: it forgets what was not used lately, bounded by bytes."""

from __future__ import annotations

import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import RLock
from typing import Any, Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")

_all: weakref.WeakSet[BoundedCache[Any, Any]] = weakref.WeakSet()


class _Making:
    """An item being made: who makes it holds the lock, and it lasts as long as anyone waits for it."""

    def __init__(self) -> None:
        self.lock, self.callers = RLock(), 0


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
        self._clears = 0
        self._start_over()
        _all.add(self)

    def _start_over(self) -> None:
        """Locks that nobody holds."""
        self._lock = RLock()  # an item's end may come back here from within
        self._making: dict[Key, _Making] = {}

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
            going = self._surplus()
            self._end(going)
            for old in going:
                self._items.pop(old, None)

    def _surplus(self) -> list[Key]:
        """What goes so that the rest fits: the least recently used first."""
        over, going = self.nbytes - self.max_bytes, []
        others = list(self._items.items())[: -1 if self.keep_newest else None]
        for key, (item, size) in others:
            if over <= 0:
                break
            if self._may_go(key, item):
                going.append(key)
                over -= size
        return going

    def _may_go(self, key: Key, item: Item) -> bool:
        """Whether an item may make room for others."""
        return True

    def _end(self, keys: Iterable[Key]) -> None:
        """Called before items go."""

    def get_or_make(self, key: Key, make: Callable[[], Item], size: Callable[[Item], int]) -> Item:
        """The item, made if need be: once, by one thread, while others that ask for the same key wait.

        Those that ask for another key do not wait. If making fails, its own caller gets the error, and
        those that waited try in turn. What was begun before :meth:`clear` is returned, but not kept.
        """
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(key, _Making())
            making.callers += 1
        try:
            with making.lock:
                with self._lock:
                    found, clears = self.get(key), self._clears  # another may have made it meanwhile
                if found is None:
                    found = make()
                    with self._lock:
                        if clears == self._clears:
                            self.put(key, found, size(found))
                return found
        finally:
            with self._lock:
                making.callers -= 1
                if not making.callers and self._making.get(key) is making:  # a forked child has begun anew
                    del self._making[key]

    def clear(self) -> None:
        with self._lock:
            self._end(self._items)
            self._items.clear()
            self._clears += 1

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
