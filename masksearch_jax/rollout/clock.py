"""Where the wall time of a run goes: seconds by phase, and how long the device stood idle while a search was out.

The device is idle when none of its programs is waited for: the host works, or waits for a search. The tail of a run,
its last tenth of episodes, is counted apart: there are no others left to decode meanwhile.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

_DEVICE = ("prefill_s", "append_s", "decode_s", "meanwhile_s")
_PHASES = (*_DEVICE, "search_wait_s", "host_s")


class PhaseClock:
    """Everything outside a `phase` is host_s. searching: tells whether a search is out now."""

    def __init__(self, searching: Callable[[], bool]):
        self.seconds = dict.fromkeys(_PHASES, 0.0)
        self.idle_searching = self.tail = self.tail_idle_searching = 0.0
        self.in_tail = False
        self._searching = searching
        self._phase, self._out, self._since = "host_s", False, time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block as `name`; phases do not nest."""
        self._switch(name)
        try:
            yield
        finally:
            self._switch("host_s")

    def mark(self) -> None:
        """Looks again whether a search is out."""
        self._switch(self._phase)

    def stats(self) -> dict[str, float]:
        """Seconds: by phase; `seconds` of all; idle_searching_s before the tail, tail_s and tail_idle_searching_s."""
        self._switch("host_s")
        return self.seconds | {
            "seconds": sum(self.seconds.values()),
            "idle_searching_s": self.idle_searching,
            "tail_s": self.tail,
            "tail_idle_searching_s": self.tail_idle_searching,
        }

    def _switch(self, phase: str) -> None:
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        self.seconds[self._phase] += passed
        idle = passed if self._out and self._phase not in _DEVICE else 0.0
        if self.in_tail:
            self.tail += passed
            self.tail_idle_searching += idle
        else:
            self.idle_searching += idle
        self._phase, self._out = phase, self._searching()
