"""The search loop of an agent over one session: the policy writes a turn, a tool answers it, until it answers.

Enters: a question or a masked passage as prompt ids, and the tools. Leaves: the turns as they end, and the answer with
its sources. The rules are those of every episode (rollout/episode.py), so the policy meets what it was trained with.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Sequence

from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import episode
from masksearch_jax.rollout.trajectory import StopReason, Turn
from masksearch_jax.serving.engine import ServingEngine
from masksearch_jax.serving.session import Sampling, Session
from masksearch_jax.text import prompt as prompt_text
from masksearch_jax.text.tokenizer_protocol import Tokenizer


@dataclasses.dataclass(frozen=True)
class AgentSettings:
    """What a search loop needs besides the engine. hits: passages of a search."""

    prompt_of: Callable[[str], list[int]]  # the prompt ids of a question or a masked passage
    searcher: interface.Searcher
    limits: episode.EpisodeLimits
    hits: int
    tools: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AgentTurn:
    """A turn, and the passages that the tool returned for it, best first."""

    turn: Turn
    hits: tuple[interface.Hit, ...] = ()


@dataclasses.dataclass(frozen=True)
class AgentReply:
    """How a search loop ended. answer: '' unless it stopped with ANSWER. written: tokens that the policy wrote."""

    answer: str
    stop: StopReason
    turns: tuple[AgentTurn, ...]
    prompt_tokens: int
    written: int

    @property
    def sources(self) -> list[interface.Hit]:
        """The passages that were shown, each once, in the order in which they were found."""
        found: dict[tuple[int, str, str], interface.Hit] = {}
        for one in self.turns:
            for hit in one.hits if one.turn.observation else ():  # the last observation may not have fitted
                found.setdefault((hit.passage_id, hit.title, hit.text), hit)
        return list(found.values())


async def answer(
    engine: ServingEngine,
    tokenizer: Tokenizer,
    settings: AgentSettings,
    prompt: list[int],
    sampling: Sampling,
    tell: Callable[[AgentTurn], None] | None = None,
) -> AgentReply:
    """Run one search loop to its end. tell: called with each turn when it and its observation are complete.

    Raises ValueError for a prompt that leaves no room for an episode, BusyError if too many sessions wait, and whatever
    the searcher raises.
    """
    opened = prompt_text.opened_thought(prompt, tokenizer)
    state = episode.Episode(len(prompt), settings.limits, tokenizer, None, opened, settings.tools)
    if state.budget < 1:
        raise ValueError(
            f"its prompt has {len(prompt)} tokens, and an episode has at most {settings.limits.total_tokens}"
        )
    told: list[AgentTurn] = []
    written = 0

    def close_turn(hits: Sequence[interface.Hit]) -> None:
        told.append(AgentTurn(state.turns[-1], tuple(hits)))
        if tell is not None:
            tell(told[-1])

    with engine.session(prompt, state.budget, sampling, at_tags=True) as session:
        while True:
            ids, ending = await _turn(session)
            written += len(ids)
            following = state.end_turn(ids, ending)
            hits: Sequence[interface.Hit] = ()
            if isinstance(following, episode.Search):
                hits = await _called(settings, following)
                following = state.observe(hits)
            close_turn(hits)
            if isinstance(following, episode.Done):
                return AgentReply(state.answer, following.stop, tuple(told), len(prompt), written)
            session.write(following.ids, state.budget)


async def _turn(session: Session) -> tuple[list[int], episode.Ending]:
    """Return the ids of the turn that the session is writing, and how it ended."""
    ids: list[int] = []
    ending = episode.Ending.NONE
    async for piece in session.pieces():
        ids += [token.id for token in piece.tokens]
        ending = piece.ending
    return ids, ending


async def _called(settings: AgentSettings, asked: episode.Search) -> list[interface.Hit]:
    query = interface.Query(asked.query, tool=asked.tool, found=asked.found)
    found = await asyncio.to_thread(settings.searcher.search, [query], settings.hits)
    return found[0]
