"""Limits on what is asked of a model: requests and tokens per minute, and money.

`RateLimiter` makes a caller wait, `Meter` refuses. Both reserve what a request may need before it is sent, and learn
afterwards what it took. Left out: how many requests run at a time (client.py, a semaphore).
"""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from masksearch_jax.llm.chat_types import BudgetSpentError, Usage

_WINDOW_S = 60.0


class Reservation:
    """The tokens that a request may take. Once it is known what the request took, set `tokens` to that."""

    def __init__(self, at: float, tokens: int):
        self.at, self.tokens = at, tokens


class RateLimiter:
    """A limit on requests and on tokens in any 60 seconds. Thread-safe; first come, first served."""

    def __init__(
        self,
        requests: int,
        tokens: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        """requests, tokens: the most per minute, 0 for no limit.

        A request of more tokens than the limit waits until nothing else was asked for a minute."""
        self._requests, self._tokens, self._clock, self._sleep = requests, tokens, clock, sleep
        self._recent: collections.deque[Reservation] = collections.deque()
        self._turn = threading.Lock()  # held while waiting, so that nobody overtakes

    def wait(self, tokens: int) -> Reservation:
        """Wait until a request of `tokens` tokens may be sent, and return its reservation."""
        if not (self._requests or self._tokens):
            return Reservation(0.0, tokens)
        with self._turn:
            while left := self._left(tokens):
                self._sleep(left)
            made = Reservation(self._clock(), tokens)
            self._recent.append(made)
            return made

    def _left(self, tokens: int) -> float:
        """Return the seconds until the oldest request is a minute old, 0 if no request is in the way."""
        now = self._clock()
        while self._recent and now - self._recent[0].at >= _WINDOW_S:
            self._recent.popleft()
        full = self._requests and len(self._recent) >= self._requests
        taken = sum(one.tokens for one in self._recent)
        heavy = self._tokens and self._recent and taken + tokens > self._tokens
        return self._recent[0].at + _WINDOW_S - now if full or heavy else 0.0


class Meter:
    """Counts tokens and money, and keeps within a budget. Thread-safe.

    Money is in the unit of the prices, which are for a million tokens. A request passes only if the budget holds even
    when this request and all those in progress cost the most that they can, so the budget is never overdrawn.
    """

    def __init__(self, prompt_price: float, completion_price: float, budget: float, spent: Usage):
        """budget: 0 for none. spent: tokens spent earlier on the same account (`completion_cache.Cache.spent`)."""
        for name, value in (("prompt_price", prompt_price), ("completion_price", completion_price), ("budget", budget)):
            if not value >= 0:
                raise ValueError(f"llm.{name}={value} has to be >= 0")
        if budget and not (prompt_price or completion_price):
            raise ValueError(f"llm.budget={budget} without llm.prompt_price and llm.completion_price limits nothing")
        self._prices, self._budget = (prompt_price, completion_price), budget
        self._prompt, self._completion = spent.prompt_tokens, spent.completion_tokens
        self._reserved, self._changed = 0.0, threading.Condition()

    def cost(self, usage: Usage) -> float:
        return (usage.prompt_tokens * self._prices[0] + usage.completion_tokens * self._prices[1]) / 1e6

    @property
    def spent(self) -> Usage:
        return Usage(self._prompt, self._completion)

    @contextlib.contextmanager
    def reserve(self, most: Usage) -> Iterator[Callable[[Usage], None]]:
        """Reserve what a request can cost while it is in progress; call the yielded function with what it took.

        Waits for other requests in progress if only their reservations are in the way. Raises BudgetSpentError.
        """
        price = self.cost(most)
        with self._changed:
            while self._budget and self.cost(self.spent) + self._reserved + price > self._budget:
                if not self._reserved:
                    raise BudgetSpentError(
                        f"{self.cost(self.spent):.4f} of llm.budget={self._budget} is spent and the next request may "
                        f"cost {price:.4f}; what was done is kept: raise llm.budget and start again to go on"
                    )
                self._changed.wait()
            self._reserved += price
        try:
            yield self._add
        finally:
            with self._changed:
                self._reserved = max(0.0, self._reserved - price)
                if self._reserved < 1e-12:
                    self._reserved = 0.0  # rounding must not look like a request in progress
                self._changed.notify_all()

    def _add(self, usage: Usage) -> None:
        with self._changed:
            self._prompt += usage.prompt_tokens
            self._completion += usage.completion_tokens
