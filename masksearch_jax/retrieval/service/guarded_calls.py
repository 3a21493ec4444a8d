"""Calls of something that may fail or be late: within a deadline, with retries, behind a circuit breaker.

Enters: a function that makes one call within given seconds. Leaves: what it returned, None if there is no answer, and
counts. Both the client of a search server and the tools of a user's own make their calls here.
Left out: what a call is (search_client.py, guarded_tool.py), what answers in its place.
"""

import collections
import hashlib
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from masksearch_jax.retrieval.service.circuit_breaker import CircuitBreaker

_FIRST_WAIT, _LONGEST_WAIT = 0.1, 5.0  # seconds before a retry
_COUNTS = ("requests", "retries", "failures", "refusals")

Answer = TypeVar("Answer")
Errors = tuple[type[Exception], ...]


class CallLimits(Protocol):
    """The settings that bound calls. timeout_s: of one call. deadline_s: of a call with its retries.

    failures: how many in a row open the breaker, for cooldown_s.
    """

    @property
    def timeout_s(self) -> float: ...
    @property
    def deadline_s(self) -> float: ...
    @property
    def retries(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def cooldown_s(self) -> float: ...


class GuardedCalls:
    """Makes the calls of one server or tool. Thread-safe. last_error: the message of the newest one, '' without."""

    def __init__(
        self,
        limits: CallLimits,
        failed: Errors,
        refused: Errors,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ):
        """failed: errors after which a call is tried again. refused: errors of a live server that would repeat."""
        self.breaker = CircuitBreaker(limits.failures, limits.cooldown_s, clock)
        self.last_error = ""
        self._limits, self._failed, self._refused = limits, failed, refused
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()  # guards the counts and the last error
        self._counts: dict[str, int] = collections.defaultdict(int)

    @property
    def stats(self) -> dict[str, float]:
        """Return counts since the start: requests, retries, failures, refusals and breaker_openings."""
        with self._lock:
            found: dict[str, float] = {name: self._counts[name] for name in _COUNTS}
        return found | {"breaker_openings": self.breaker.openings}

    def ask(self, call: Callable[[float], Answer], key: bytes, started: float) -> Answer | None:
        """Return what `call(seconds)` returns; None after the last retry, after the deadline, or behind the breaker.

        key: of the request; it spreads the waits between retries. started: when the deadline began, by `clock`. Raises
        the errors of `refused`.
        """
        for attempt in range(self._limits.retries + 1):
            wait = backoff(key, attempt) if attempt else 0.0
            left = self._limits.deadline_s - (self._clock() - started) - wait
            if left <= 0:
                return None
            if wait:
                self._sleep(wait)
            ticket = self.breaker.admit()
            if ticket is None:
                return None
            self._count("requests")
            if attempt:
                self._count("retries")
            alive = False
            try:
                answer = call(min(left, self._limits.timeout_s))
                alive = True
                return answer
            except self._refused as error:
                alive = True
                self._count("refusals", error)
                raise
            except self._failed as error:
                self._count("failures", error)
            finally:
                self.breaker.report(ticket, alive)
        return None

    def _count(self, name: str, error: Exception | None = None) -> None:
        with self._lock:
            self._counts[name] += 1
            if error is not None:
                self.last_error = str(error)


def backoff(key: bytes, attempt: int) -> float:
    """Return the seconds to wait before retry `attempt` (1, 2, ..).

    They double each time, up to a limit. A hash of the request takes off up to a half, so that clients spread out and a
    run repeats.
    """
    draw = int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=attempt.to_bytes(8, "little")).digest(), "little")
    return min(_FIRST_WAIT * 2 ** (attempt - 1), _LONGEST_WAIT) * (1 - draw / 2**65)
