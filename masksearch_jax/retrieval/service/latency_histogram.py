"""A histogram of fixed size of how long calls took, and the quantiles that can be read from it.

Enters: seconds. Leaves: quantiles. From 0.1 ms to 160 s they are never below the true one and at most a tenth above it.
Left out: locking (the owner already holds a lock).
"""

import math

import numpy as np

_FIRST = 1e-4  # seconds
_RATIO = 1.1
_BINS = 150  # the last edge lies at 160 s


class Latencies:
    """Counts of calls by latency since creation."""

    def __init__(self):
        self._counts = np.zeros(_BINS + 1, np.int64)

    def add(self, seconds: float) -> None:
        place = 0 if seconds <= _FIRST else math.ceil(math.log(seconds / _FIRST) / math.log(_RATIO))
        self._counts[min(place, _BINS)] += 1

    def quantile(self, share: float) -> float:
        """Return seconds that a `share` of the calls did not exceed: the upper edge of a bin; 0 without calls."""
        total = int(self._counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), max(1, math.ceil(share * total))))
        return _FIRST * _RATIO**place

    def summary(self) -> dict[str, float]:
        """Return latency_p50_ms and latency_p99_ms."""
        return {f"latency_p{p}_ms": round(1e3 * self.quantile(p / 100), 3) for p in (50, 99)}
