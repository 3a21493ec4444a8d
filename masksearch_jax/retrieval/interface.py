"""The interface that a rollout needs of a search tool, and nothing more."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Query:
    """One search query.

    `passage_id` and `article_id` are those of the task's source (-1: none), so that it can be excluded. tool: the name
    of the tool that is called, in an episode with several (toolbox.py). found: what the episode's calls have returned
    so far, oldest first; empty for the tool 'search'.
    """

    text: str
    passage_id: int = -1
    article_id: int = -1
    tool: str = "search"
    found: tuple["Hit", ...] = ()


@dataclasses.dataclass(frozen=True)
class Hit:
    passage_id: int
    article_id: int
    title: str
    text: str
    score: float


class Searcher(Protocol):
    """A search tool. Thread-safe: rollouts call it from host threads."""

    @property
    def fingerprint(self) -> str:
        """Changes when the passages, encoder, index or exclusion mode change."""
        ...

    @property
    def stats(self) -> Mapping[str, float]:
        """Counts and latencies since creation, for the log."""
        ...

    def search(self, queries: Sequence[Query], k: int) -> list[list[Hit]]:
        """Return at most `k` hits for each query, best first."""
        ...
