"""A cache that forgets what was not used lately, bounded by memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")


class BoundedCache(Generic[Key, Item]):
    """Keeps items until their sizes exceed ``max_bytes``; the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: OrderedDict[Key, tuple[Item, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Key) -> Item | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Key, item: Item, size: int) -> None:
        """Keep ``item`` of ``size`` bytes; an item above the whole budget is not kept."""
        with self._lock:
            self._items.pop(key, None)
            if size <= self.max_bytes:
                self._items[key] = item, size
            while sum(s for _, s in self._items.values()) > self.max_bytes:
                self._items.popitem(last=False)
