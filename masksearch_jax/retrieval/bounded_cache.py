"""A cache of the most recently used values, bounded by their bytes in memory.

Enters: keys, values, and a function that says how many bytes a value takes. A count would be no bound: one text of a
search server may be a thousand times as long as another. Left out: locking (the owner already holds a lock).
"""

import collections
import sys
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_ENTRY_BYTES = 200  # what the dictionary, the pair of key and value, and the key's own objects take, about


class BoundedCache(Generic[Key, Value]):
    """Values by key, together at most `limit` bytes; what was not used for longest goes first."""

    def __init__(self, limit: int, size: Callable[[Key, Value], int]):
        """limit: bytes of all entries. size: (key, value) -> bytes that the two take."""
        self.limit, self.bytes = limit, 0
        self._size = size
        self._entries: collections.OrderedDict[Key, tuple[Value, int]] = collections.OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __getitem__(self, key: Key) -> Value:
        """Return the value, which counts as used now; raise KeyError if it is not there."""
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def __setitem__(self, key: Key, value: Value) -> None:
        """Store a value and drop what goes beyond the limit: the value itself, if it alone is larger."""
        size = self._size(key, value) + _ENTRY_BYTES
        if key in self._entries:
            self.bytes -= self._entries.pop(key)[1]
        self._entries[key] = value, size
        self.bytes += size
        while self.bytes > self.limit:
            self.bytes -= self._entries.popitem(last=False)[1][1]


def text_bytes(*texts: str) -> int:
    """Return the bytes that strings take in memory: one to four for each character."""
    return sum(map(sys.getsizeof, texts))
