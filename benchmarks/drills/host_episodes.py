"""Play an episode on the host without a model: from the tokens of its turns to a trajectory like the scheduler's."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from masksearch_jax.retrieval.interface import Hit
from masksearch_jax.rollout import episode
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.text import stop_automaton
from masksearch_jax.text.prompt import opened_thought
from masksearch_jax.text.tokenizer_protocol import Tokenizer


@dataclasses.dataclass
class Played:
    """trajectory: of the episode. appended: the token ids of each block that the environment wrote."""

    trajectory: Trajectory
    appended: list[list[int]]


def play(
    tokenizer: Tokenizer,
    turns: Iterable[Sequence[int]],
    search: Callable[[str], Sequence[Hit]],
    limits: episode.EpisodeLimits | None = None,
    forced: str | None = None,
    prompt: Sequence[int] = (3, 4),
) -> Played:
    """Play an episode: each item of `turns` holds the tokens that the policy would go on to write in that turn.

    A turn ends as on the device: by the table of text/stop_automaton.py, or at its budget. search: query -> hits.
    Without a further turn the episode meets its deadline. prompt: its token ids.
    """
    table, limits = (
        stop_automaton.build_table(tokenizer),
        limits or episode.EpisodeLimits(turn_tokens=256, total_tokens=4096),
    )
    ids, trainable, appended = list(prompt), [False] * len(prompt), []
    state = episode.Episode(len(ids), limits, tokenizer, forced, opened_thought(prompt, tokenizer))
    turns = iter(turns)
    following = episode.Search(state.forced_query) if forced is not None else None
    while not isinstance(following, episode.Done):
        assert len(ids) == state.length or isinstance(following, episode.Extend)
        if isinstance(following, episode.Search):
            following = state.observe(search(following.query))
            continue
        if isinstance(following, episode.Extend):
            appended.append(following.ids)
            ids += following.ids
            trainable += [False] * len(following.ids)
        assert len(ids) == state.length < limits.total_tokens and state.budget > 0
        written, ending = _written(table, next(turns, None), state.budget)
        ids += written
        trainable += [True] * len(written)
        following = state.cancel(written) if ending is None else state.end_turn(written, ending)
    n = len(ids)
    assert n == state.length
    return Played(
        Trajectory(
            task_id="t", group=0, sample=0, ids=np.array(ids, np.int32), trainable=np.array(trainable, bool),
            logprobs=np.zeros(n, np.float32), versions=np.zeros(n, np.int32), prompt_length=len(prompt),
            turns=tuple(state.turns), stop=following.stop, answer=state.answer,
        ),
        appended,
    )  # fmt: skip


def _written(table, would: Sequence[int] | None, budget: int):
    """Return the tokens that are written of those that would be, and how the turn ends; None: at the deadline."""
    at = stop_automaton.START
    would = [] if would is None else would
    for count, id in enumerate(would[:budget], start=1):
        at = table.follow(at, id)
        if at >= table.stopped:
            return list(would[:count]), episode.Ending.STOP if at == table.stopped else episode.Ending.EOS
    if len(would) >= budget:
        return list(would[:budget]), episode.Ending.LIMIT
    return list(would), None
