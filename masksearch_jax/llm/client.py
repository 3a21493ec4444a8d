"""The one client of a language model: a conversation goes in, a completion comes out, whatever backend is used.

A request passes the cache, the budget, the rate limit and the exchange, in this order. A transient failure is tried
again after a wait that doubles each time. Thread-safe: callers may ask from any number of threads, and `concurrency`
exchanges run at a time. Left out: what is asked (agents, prep) and what a reply has to look like (structured.py).
"""

import collections
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from masksearch_jax.llm.chat_types import (
    AccessError,
    Backend,
    Completion,
    DoubtfulError,
    Message,
    RequestError,
    Sampling,
    TransientError,
    UnavailableError,
    Usage,
)
from masksearch_jax.llm.completion_cache import Cache, key_of
from masksearch_jax.llm.limits import Meter, RateLimiter

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
_PROBE = 'Reply with the JSON object {"ok": true}.'
_TOKENS_A_MESSAGE = 8  # about as many as a chat template adds to a message


@dataclasses.dataclass(frozen=True)
class ClientSettings:
    """The limits and prices of a client.

    timeout_s: seconds for one exchange. retries: how often a transient failure is tried again. concurrency: exchanges
    at a time. requests_per_minute, tokens_per_minute: 0 for no limit. prompt_price, completion_price: of a million
    tokens. budget: in the unit of the prices, over all runs that share the cache; 0 for none.
    """

    timeout_s: float = 120.0
    retries: int = 5
    concurrency: int = 8
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    prompt_price: float = 0.0
    completion_price: float = 0.0
    budget: float = 0.0

    def __post_init__(self):
        for name, least in (("retries", 0), ("concurrency", 1), ("requests_per_minute", 0), ("tokens_per_minute", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"llm.{name}={getattr(self, name)} has to be >= {least}")
        if not self.timeout_s > 0:
            raise ValueError(f"llm.timeout_s={self.timeout_s} has to be > 0")


class Client:
    """A client of one backend. `stats` counts since the client was made."""

    def __init__(
        self,
        backend: Backend,
        settings: ClientSettings,
        cache_file: Path | str,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        """cache_file: see completion_cache.py. Raises ValueError for settings that cannot work."""
        self.settings = settings
        self._backend, self._sleep = backend, sleep
        self._limiter = RateLimiter(settings.requests_per_minute, settings.tokens_per_minute, clock, sleep)
        self._cache = Cache(cache_file)
        prices = settings.prompt_price, settings.completion_price
        self._meter = Meter(*prices, settings.budget, self._cache.spent(backend.name))
        self._slots = threading.Semaphore(settings.concurrency)
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._pending: dict[str, threading.Event] = {}

    @property
    def model(self) -> str:
        return self._backend.name

    @property
    def stats(self) -> dict[str, float]:
        """Counts of requests, cache_hits, retries, failures (requests without a reply) and tokens since the start.

        cost: the whole account, earlier runs included."""
        names = ("requests", "cache_hits", "retries", "failures", "prompt_tokens", "completion_tokens")
        with self._lock:
            counts = {name: self._counts[name] for name in names}
        return counts | {"cost": self._meter.cost(self._meter.spent)}

    def complete(
        self, messages: Sequence[Message], sampling: Sampling, timeout_s: float = 0.0, retries: int | None = None
    ) -> Completion:
        """Return the completion of a conversation, from the cache if it was asked before.

        timeout_s, retries: replace those of the settings. Raises BudgetSpentError before the budget would be overdrawn,
        UnavailableError after the last retry, and RequestError or AccessError if the server refuses.
        """
        key = key_of(self.model, messages, sampling)
        while (found := self._cache.get(key)) is None:
            with self._lock:
                other = self._pending.get(key)
                if other is None:
                    self._pending[key] = threading.Event()
            if other is None:
                try:
                    return self._ask(key, messages, sampling, timeout_s or self.settings.timeout_s, retries)
                finally:
                    with self._lock:
                        self._pending.pop(key).set()
            other.wait()  # another thread is asking the same
        self._count(cache_hits=1)
        return found

    def close(self) -> None:
        self._backend.close()
        self._cache.close()

    def _ask(self, key, messages, sampling, timeout_s, retries) -> Completion:
        # A token has at least one byte, and about four in ordinary text: half the bytes is a safe count of tokens.
        prompt = sum(len(m.content.encode()) // 2 + _TOKENS_A_MESSAGE for m in messages)
        most = Usage(prompt, sampling.max_tokens)
        retries = self.settings.retries if retries is None else retries
        with self._meter.reserve(most) as pay:
            for attempt in range(retries + 1):
                with self._slots:
                    reserved = self._limiter.wait(most.prompt_tokens + most.completion_tokens)
                    self._count(requests=1, retries=int(attempt > 0))
                    try:
                        completion = self._exchange(messages, sampling, timeout_s, pay)
                    except TransientError as error:
                        self._count(failures=1)
                        last = error
                    else:
                        usage = completion.usage
                        reserved.tokens = usage.prompt_tokens + usage.completion_tokens
                        self._cache.put(key, self.model, completion)
                        pay(usage)
                        self._count(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
                        return completion
                if attempt < retries:
                    self._sleep(max(backoff(key, attempt + 1), min(last.wait_s, _LONGEST_WAIT_S)))
        raise UnavailableError(
            f"no reply of {self.model} after {retries + 1} tries; the last: {last}. What was done is kept: see that "
            "it runs, then start this line again to go on"
        ) from last

    def _exchange(self, messages, sampling, timeout_s, pay: Callable[[Usage], None]) -> Completion:
        """Do one exchange.

        After a refusal in doubt, a minimal request with the same parameters shows which requests it concerns."""
        try:
            return self._backend.complete(messages, sampling, timeout_s)
        except DoubtfulError as error:
            doubt = error
        probe = [Message(message.role, _PROBE) for message in messages]
        self._limiter.wait(len(probe) * (len(_PROBE) + _TOKENS_A_MESSAGE) + sampling.max_tokens)
        self._count(requests=1)
        try:
            usage = self._backend.complete(probe, sampling, timeout_s).usage
        except (DoubtfulError, RequestError, AccessError) as error:
            raise AccessError(f"{doubt}; a minimal request is refused as well: {doubt.advice}") from error
        pay(usage)
        self._count(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
        raise RequestError(f"{doubt} (a minimal request is not refused)") from doubt

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)


def backoff(key: str, attempt: int) -> float:
    """Return the seconds to wait before retry `attempt` (1, 2, ..).

    They double each time, less up to a half. A hash of the request decides how much less, so that callers spread out
    and a repeated run waits the same."""
    draw = int.from_bytes(hashlib.blake2b(f"{key} {attempt}".encode(), digest_size=8).digest(), "little")
    return min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S) * (1 - draw / 2**65)
