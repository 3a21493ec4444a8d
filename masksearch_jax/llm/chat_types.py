"""What the project needs of a language model: a conversation goes in, text and its price in tokens come out.

A `Backend` is one way to a model (endpoint.py, checkpoint_model.py) and does a single exchange; `client.Client` adds
retries, limits, a cache and a budget around it. The errors below are all that either raises. Only a backend raises
TransientError and DoubtfulError.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Message:
    """One message of a conversation.

    role: one of ROLES. content: its text. Half a surrogate pair, which no request can carry, becomes '?'."""

    role: str
    content: str

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"a message's role is one of {ROLES}, got {self.role!r}")
        object.__setattr__(self, "content", self.content.encode(errors="replace").decode())


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How to sample a reply.

    temperature: 0 is greedy. max_tokens: most tokens of a reply. seed: makes several samples of one conversation
    differ; an endpoint may ignore it."""

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
    """The tokens of one exchange, as the model counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True)
class Completion:
    """A reply. finish: 'stop' if the model ended it, 'length' if max_tokens cut it, or what else the server says."""

    text: str
    usage: Usage
    finish: str = "stop"


class Backend(Protocol):
    """One way to a model. Thread-safe."""

    name: str  # the model's name in the cache: other weights need another name

    def complete(self, messages: Sequence[Message], sampling: Sampling, timeout_s: float) -> Completion:
        """Do one exchange within `timeout_s` seconds, without retries.

        Raises TransientError if another try may succeed, RequestError if this request cannot succeed, AccessError if no
        request can, and DoubtfulError if the server refuses and does not say which of the last two it is.
        """
        ...

    def close(self) -> None: ...


class TransientError(Exception):
    """No reply this time: refused connection, timeout, overload. wait_s: the wait that the server asked for, or 0."""

    def __init__(self, message: str, wait_s: float = 0.0):
        super().__init__(message)
        self.wait_s = wait_s


class RequestError(ValueError):
    """The server refuses this particular request (its context is too long, for example), and would do so again."""


class AccessError(ValueError):
    """The server refuses every request. It ends a run, because no task is to blame.

    The cause is a wrong key, a model that the server does not have, an account without money, or a parameter that it
    does not accept."""


class DoubtfulError(Exception):
    """The server refuses, perhaps only this request and perhaps every request.

    The client finds out which, and raises RequestError or AccessError. advice: what to change if it is every request.
    """

    def __init__(self, message: str, advice: str):
        super().__init__(message)
        self.advice = advice


class UnavailableError(ConnectionError):
    """No reply after the last retry."""


class BudgetSpentError(ValueError):
    """The next request might cost more than what is left of the budget."""
