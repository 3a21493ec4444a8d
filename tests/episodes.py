"""Episodes played on the host, without a model: turns of tokens in, a trajectory as of the scheduler out."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from masksearch_jax.data.records import Task
from masksearch_jax.rollout import episode
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.text import stop_automaton
from masksearch_jax.text.prompt import opened_thought

# Tokens that close a tag and go on, whole. SmolLM2's vocabulary has 19 that end in or go on after '>'.
GOING_ON = ("</answer>.", "</answer>\n\n", "</answer></", "</answer><search> x</search>", "</search>.", "</answer>é")


def with_tokens(folder: Path, content: Sequence[str], special: bool = False) -> Path:
    """Adds tokens to the tokenizer of a folder."""
    file = folder / "tokenizer.json"
    made = tokenizers.Tokenizer.from_file(str(file))
    made.add_tokens([tokenizers.AddedToken(one, normalized=False, special=special) for one in content])
    made.save(str(file))
    return folder


def task(golds=("Oslo",), form: str = "spans") -> Task:
    text = "Karn Velith moved to " + " in ".join(["[mask]"] * len(golds)) + "."
    return Task(
        id="t", kind="ramp", split="test", prompt=[3, 4], targets=[5], answer_form=form,
        answers=[[gold] for gold in golds], span_kinds=["name"] * len(golds), text=text, paragraph="", title="Karn",
        passage_id=7, article_id=8,
    )  # fmt: skip


@dataclasses.dataclass
class Played:
    """trajectory: of the episode. appended: the token ids of each block that the environment wrote."""

    trajectory: Trajectory
    appended: list[list[int]]


def play(
    tokenizer, turns: Iterable[Sequence[int]], search: Callable, limits=None, forced: str | None = None, prompt=(3, 4)
) -> Played:
    """Plays an episode: each item of `turns` holds the tokens that the policy would go on to write in that turn.

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
    """The tokens that are written of those that would be, and how the turn ends; None: at the deadline."""
    at = stop_automaton.START
    would = [] if would is None else would
    for count, id in enumerate(would[:budget], start=1):
        at = table.follow(at, id)
        if at >= table.stopped:
            return list(would[:count]), episode.Ending.STOP if at == table.stopped else episode.Ending.EOS
    if len(would) >= budget:
        return list(would[:budget]), episode.Ending.LIMIT
    return list(would), None


def change_json(file: Path, **changes) -> None:
    """Changes some keys of a JSON object."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
