"""A circuit breaker: after some failures in a row nothing is asked for a while, then one request tries.

Closed (all may ask), open (none may), half open (one may, after `cooldown`): its success closes the breaker, its
failure opens it again. What was asked before the last change of state says nothing about the state after it, so each
request holds a ticket. Left out: what a request is (client.py).
"""

import threading
import time
from collections.abc import Callable

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"


class CircuitBreaker:
    """Thread-safe. `state` is one of the three; `openings` counts how often it opened."""

    def __init__(self, failures: int, cooldown: float, clock: Callable[[], float] = time.monotonic):
        """failures: in a row, that open it. cooldown: seconds until it is half open."""
        self.state, self.openings = CLOSED, 0
        self._limit, self._cooldown, self._clock = failures, cooldown, clock
        self._failures, self._opened, self._ticket = 0, 0.0, 0
        self._lock = threading.Lock()

    def admit(self) -> int | None:
        """Returns a ticket to ask with, which must be reported; None if nothing may be asked now."""
        with self._lock:
            if self.state == CLOSED:
                return self._ticket
            if self.state == OPEN and self._clock() - self._opened >= self._cooldown:
                self._become(HALF_OPEN)
                return self._ticket
            return None

    def report(self, ticket: int, success: bool) -> None:
        """Takes the outcome of the request that holds the ticket."""
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
