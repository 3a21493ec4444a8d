"""Where the wall time of a run goes: seconds by phase, and how long the device was idle while a search was running.

The device counts as idle when the host does not wait for one of its programs: the host works, or waits for a search.
The tail of a run, its last tenth of episodes, is counted separately, because few other episodes are left to decode
while a search runs.
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import jax

_DEVICE = ("prefill_s", "extend_s", "decode_s", "overlap_s")
_PHASES = (*_DEVICE, "search_wait_s", "host_s")


class PhaseClock:
    """A clock that sums seconds by phase. Time outside a `phase` counts as host_s.

    searching: returns True while a search is running.
    """

    def __init__(self, searching: Callable[[], bool]):
        self.seconds = dict.fromkeys(_PHASES, 0.0)
        self.idle_searching = self.tail = self.tail_idle_searching = 0.0
        self.in_tail = False
        self._searching = searching
        self._phase, self._out, self._since = "host_s", False, time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the with block as `name`, and show it in a trace. Phases do not nest."""
        self._switch(name)
        try:
            with jax.profiler.TraceAnnotation(name.removesuffix("_s")):
                yield
        finally:
            self._switch("host_s")

    def mark(self) -> None:
        """Check again whether a search is running."""
        self._switch(self._phase)

    def stats(self) -> dict[str, float]:
        """Return seconds by name.

        The names are the phases; `seconds`, their sum; `idle_searching_s`, idle while a search ran, before the tail;
        `tail_s`, all of the tail; and `tail_idle_searching_s`, idle while a search ran, in the tail.
        """
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
