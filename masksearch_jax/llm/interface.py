"""What the project asks of a language model: a conversation in, text and its price in tokens out.

A `Backend` is one way to a model (endpoint.py, local.py) and does one exchange; `client.Client` adds retries, limits,
a cache and a budget around it. The errors below are all that either raises; only a backend raises the transient and
the doubtful one.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a conversation. role: one of ROLES. content: half a surrogate pair in it, which no request can
    carry, becomes '?'."""

    role: str
    content: str

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"a message's role is one of {ROLES}, got {self.role!r}")
        object.__setattr__(self, "content", self.content.encode(errors="replace").decode())


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. max_tokens: most tokens of a reply. seed: tells samples of one conversation apart; an
    endpoint may or may not heed it."""

    temperature: float = 0.0
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self):
        if not self.temperature >= 0:
            raise ValueError(f"llm.temperature={self.temperature} has to be >= 0")
        if self.max_tokens < 1:
            raise ValueError(f"llm.max_tokens={self.max_tokens} has to be >= 1")


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tokens of one exchange, as its model counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True)
class Completion:
    """finish: 'stop' where the model ended its reply, 'length' where max_tokens did, or what else the server says."""

    text: str
    usage: Usage
    finish: str = "stop"


class Backend(Protocol):
    """One way to a model. Thread-safe."""

    name: str  # of the model, as the cache knows it: other weights, another name

    def complete(self, messages: Sequence[Message], sampling: Sampling, timeout_s: float) -> Completion:
        """One exchange, without retries, within `timeout_s` seconds.

        Raises TransientError if another try may succeed, RequestError if this request cannot, AccessError if none can,
        and DoubtfulError if the server refuses and does not say which of the two it is.
        """
        ...

    def close(self) -> None: ...


class TransientError(Exception):
    """No reply this time: refused connection, timeout, overload. wait_s: what the server asked to wait, or 0."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


class RequestError(ValueError):
    """The server refuses this very request (too long a context, for one), and would again."""


class AccessError(ValueError):
    """The server refuses every request: a wrong key, a model that it does not have, an account without money, a
    parameter that it does not take. It ends a run: no task is to blame."""


class DoubtfulError(Exception):
    """The server refuses, perhaps this request alone and perhaps every one: the client finds out and raises
    RequestError or AccessError. advice: what to change if it is every one."""

    def __init__(self, message: str, advice: str):
        super().__init__(message)
        self.advice = advice


class UnavailableError(ConnectionError):
    """No reply after the last retry."""


class BudgetSpentError(ValueError):
    """The next request might cost more than what is left of the budget."""
