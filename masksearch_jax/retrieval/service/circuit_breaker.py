"""A circuit breaker: after some failures in a row no request is sent for a while, then one request tries.

Closed: all may ask. Open: none may. Half open, after `cooldown`: one may; its success closes the breaker, its failure
opens it again. A request that was sent before the last change of state says nothing about the state after it, so each
request holds a ticket. Left out: how often one is tried (guarded_calls.py).
"""

import threading
import time
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


class CircuitBreaker:
    """A thread-safe circuit breaker. `state` is one of the three; `openings` counts how often it opened."""

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic):
        """failures: how many in a row open the breaker. cooldown: seconds until it is half open."""
        self.state, self.openings = CLOSED, 0
        self._limit, self._cooldown, self._clock = failures, cooldown, clock
        self._failures, self._opened, self._ticket = 0, 0.0, 0
        self._lock = threading.Lock()

    def admit(self) -> int | None:
        """Return a ticket for a request, whose outcome must be reported; None if nothing may be asked now."""
        with self._lock:
            if self.state == CLOSED:
                return self._ticket
            if self.state == OPEN and self._clock() - self._opened >= self._cooldown:
                self._become(HALF_OPEN)
                return self._ticket
            return None

    def report(self, ticket: int, success: bool) -> None:
        """Record the outcome of the request that holds the ticket; ignore it if the state has changed since."""
        with self._lock:
            if ticket != self._ticket:
                return
            if success:
                self._failures = 0
                if self.state == HALF_OPEN:
                    self._become(CLOSED)
                return
            self._failures += 1
            if self.state == HALF_OPEN or self._failures >= self._limit:
                self.openings += 1
                self._opened = self._clock()
                self._become(OPEN)

    def _become(self, state: str) -> None:
        self.state = state
        self._failures = 0
        self._ticket += 1
