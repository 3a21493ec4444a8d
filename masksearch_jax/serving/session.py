"""A session of the serving engine as a coroutine sees it: it asks for turns, and gets tokens as they are written.

Enters: commands of the session for the engine's thread (serving/engine.py), and pieces of turns from it. Leaves: tokens
with their log-probs.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence

from masksearch_jax.rollout.episode import Ending


@dataclasses.dataclass(frozen=True)
class Sampling:
    """temperature: 0 is greedy. top_p: share of the probability that is sampled from. seed, number: of the draws; a
    request numbers its choices, so that each is drawn anew."""

    temperature: float
    top_p: float
    seed: int
    number: int = 0


@dataclasses.dataclass(frozen=True)
class Token:
    """A token with its log-prob, and (id, log-prob) of the likeliest tokens in its place, best first.

    logprob is None for the first token of a prompt, which nothing predicts."""

    id: int
    logprob: float | None
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Piece:
    """Tokens of a turn as they were written. ending: how the turn ended with them, NONE while it goes on."""

    tokens: list[Token]
    ending: Ending = Ending.NONE


class BusyError(Exception):
    """Raised when too many sessions wait for a slot."""


class Session:
    """One conversation with the model; made by `ServingEngine.session`, used in the event loop that made it.

    length: tokens of the prompt and of all that was written and appended since.
    """

    def __init__(
        self, send: Callable[["Command"], None], total_tokens: int, prompt: list[int], budget: int, sampling: Sampling,
        alternatives: int, scored: bool, at_tags: bool,
    ):  # fmt: skip
        self.prompt, self.budget, self.sampling = prompt, budget, sampling
        self.alternatives, self.scored, self.at_tags = alternatives, scored, at_tags
        self.length = len(prompt)
        self._send, self._total_tokens, self._loop = send, total_tokens, asyncio.get_running_loop()
        self._events: asyncio.Queue[Piece | Exception] = asyncio.Queue()

    async def scores(self) -> list[Token]:
        """Return the tokens of the prompt with their log-probs; call it once, before `pieces`, if it is scored."""
        return (await self._next()).tokens

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of the current turn to its end. Raises what ended the session, such as a full device."""
        ending = Ending.NONE
        while ending == Ending.NONE:
            piece = await self._next()
            self.length += len(piece.tokens)
            ending = piece.ending
            yield piece

    async def _next(self) -> Piece:
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event

    def write(self, ids: Sequence[int], budget: int) -> None:
        """Append ids, of which there is one at least, and begin a turn of at most `budget` tokens.

        Raises ValueError if they do not fit.
        """
        if not ids or budget < 1 or self.length + len(ids) + budget > self._total_tokens:
            raise ValueError(f"{len(ids)} tokens and a turn of {budget} do not fit after {self.length} tokens")
        self.length += len(ids)
        self._send((self, list(ids), budget))

    def deliver(self, event: Piece | Exception) -> None:
        """Hand an event to the session; the engine's thread calls this."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for it
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


# (session, ids, budget); None for ids closes the session, and None for the command ends the thread.
Command = tuple[Session, list[int] | None, int] | None
