"""A solved task as the policy would have written it: turns of text, and their tokens.

Enters: a task, thoughts, queries, hits and an answer. Leaves: a `records.Demonstration`, or the reason why there can be
none. The rollout's own rules (rollout/episode.py) make the tokens, so tags, observations, limits and their order are
those that the policy meets. What an episode would not have allowed is no demonstration.
"""

import dataclasses
from collections.abc import Sequence

from masksearch_jax.data import records
from masksearch_jax.retrieval import interface
from masksearch_jax.rollout import episode
from masksearch_jax.rollout.trajectory import StopReason
from masksearch_jax.runtime.types import JsonObject
from masksearch_jax.text import prompt, tags
from masksearch_jax.text.tokenizer_protocol import Tokenizer


@dataclasses.dataclass(frozen=True)
class Search:
    """One search turn, and what the tool returned for its query."""

    thought: str
    query: str
    hits: tuple[interface.Hit, ...]

    @property
    def text(self) -> str:
        return _think(self.thought) + tags.block(tags.SEARCH, plain(self.query))


@dataclasses.dataclass(frozen=True)
class Transcript:
    """The turns of a solved task. answer: in the task's answer form."""

    searches: tuple[Search, ...]
    thought: str
    answer: str

    @property
    def text(self) -> str:
        """The text of the answering turn."""
        return _think(self.thought) + tags.block(tags.ANSWER, plain(self.answer))


def from_json(fields: JsonObject) -> Transcript:
    """Return a transcript from its fields: the inverse of dataclasses.asdict."""
    searches = [
        Search(one["thought"], one["query"], tuple(interface.Hit(**hit) for hit in one["hits"]))
        for one in fields["searches"]
    ]
    return Transcript(tuple(searches), fields["thought"], fields["answer"])


def plain(text: str) -> str:
    """Return text as it may stand inside a tag: without our tags, with single spaces."""
    return " ".join(tags.neutralise(text).split())


def _think(thought: str) -> str:
    return tags.block(tags.THINK, plain(thought)) if plain(thought) else ""


def demonstration(
    name: str, task: records.Task, done: Transcript, recall: float, limits: episode.EpisodeLimits, tokenizer: Tokenizer
) -> tuple[records.Demonstration | None, str]:
    """Return (demonstration with id `name`, '') or (None, reason).

    The reason is 'turn_too_long', 'too_many_turns', 'too_long' or 'invalid_turn'."""
    opened = prompt.opened_thought(task.prompt, tokenizer)
    rules = episode.Episode(len(task.prompt), limits, tokenizer, opened=opened)
    ids, trainable = list(task.prompt), [0] * len(task.prompt)

    def too_long(turn: Sequence[int]) -> str:
        return "turn_too_long" if len(turn) > limits.turn_tokens else "too_long"

    def written(text: str) -> list[int]:
        return tokenizer.encode(text if rules.turns else prompt.after_opened(text, opened))

    for one in done.searches:
        turn = written(one.text)
        if len(turn) > rules.budget:
            return None, too_long(turn)
        following = rules.end_turn(turn, episode.Ending.STOP)
        if isinstance(following, episode.Done):
            return None, "too_many_turns" if len(rules.turns) >= limits.turns else "too_long"
        if following != episode.Search(plain(one.query)):
            return None, "invalid_turn"
        shown = rules.observe(one.hits)
        if isinstance(shown, episode.Done):
            return None, "too_long"
        ids += [*turn, *shown.ids]
        trainable += [1] * len(turn) + [0] * len(shown.ids)
    turn = written(done.text)
    if len(turn) > rules.budget:
        return None, too_long(turn)
    following = rules.end_turn(turn, episode.Ending.STOP)
    if following != episode.Done(StopReason.ANSWER) or rules.answer != plain(done.answer):
        return None, "invalid_turn"
    made = records.Demonstration(
        id=name, task_id=task.id, masks=0 if task.kind == "qa" else task.masks, ids=ids + turn,
        trainable=trainable + [1] * len(turn), searches=len(done.searches), recall=recall,
    )  # fmt: skip
    return made, ""


def visible(hits: Sequence[interface.Hit], tokenizer: Tokenizer, limit: int) -> list[str]:
    """Return the part of each hit's text that an observation of at most `limit` tokens shows, '' if it shows none."""
    heads = (f" {tags.neutralise(hit.title)}: " if hit.title.strip() else " " for hit in hits)  # as in an observation
    parts = [(head, tags.neutralise(hit.text)) for head, hit in zip(heads, hits, strict=True)]
    shown = tokenizer.decode(prompt.observation(hits, tokenizer, limit))
    room = len(shown) - sum(map(len, tags.INFORMATION))
    found = []
    for head, text in parts:
        room -= len(head)
        found.append(text[: max(room, 0)])
        room -= len(text)
    return found
