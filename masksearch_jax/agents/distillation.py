"""Self-evolving distillation: a checkpoint of ours as the teacher (paper, section 2.2, "Self-Evolve Distillation").

In: tasks, a rollout engine and the teacher's parameters. Out: demonstrations, and counts of what was rejected and why.
We sample several trajectories per task. A trajectory is kept if it is well formed and has searched, if its answer
reaches a floor of token recall (or a judge accepts it), and if it does not repeat a kept trajectory of the same task.
It is stored token by token as the policy wrote it. Left out: rounds, and the training between them
(workflows/evolve.py).
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from masksearch_jax.agents.reward_judge import Asked
from masksearch_jax.data import records
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.types import Params
from masksearch_jax.scoring import answer_metrics

# [(text of the task, given answers, accepted strings of each)] -> 1.0, 0.0, or NaN for no verdict
# (agents/reward_judge.py). It is asked only about answers that have the requested form.
Judge = Callable[[Sequence[Asked]], Sequence[float]]


class Engine(Protocol):
    """The part of rollout.engine.RolloutEngine that is needed here."""

    def run(self, params: Params, requests: Sequence[Request], version: int, seed: int) -> list[Trajectory]: ...


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Settings of one round.

    samples: trajectories per task. keep: the most that are kept of them. recall: the least mean token recall over the
    spans of an accepted answer, if no judge decides. round: keys the random bits and names the demonstrations."""

    samples: int
    keep: int
    recall: float
    round: int
    seed: int

    def __post_init__(self):
        if not 1 <= self.keep <= self.samples:
            raise ValueError(f"samples={self.samples}, keep={self.keep}: 1 <= keep <= samples is needed")
        if not 0 < self.recall <= 1:
            raise ValueError(f"recall={self.recall}: a share above 0 and up to 1 is needed")


@dataclasses.dataclass(frozen=True)
class Harvest:
    """What one chunk of tasks yields.

    demonstrations: in the order of the tasks. outcomes: {'accepted' or the reason of a rejection: number of
    trajectories}. solved: tasks with a demonstration. queries: {normalised query: searches} of the kept trajectories.
    """

    demonstrations: list[records.Demonstration]
    outcomes: collections.Counter[str]
    solved: int
    queries: collections.Counter[str]


def harvest(
    engine: Engine,
    params: Params,
    tasks: Sequence[records.Task],
    cfg: DistillConfig,
    first: int,
    judge: Judge | None = None,
) -> Harvest:
    """Sample every task and keep what passes.

    tasks: all of one task name. first: how many of them came before these in the round. The random bits are keyed by
    round, name, position among the tasks of that name and sample, so no chunk and no name repeats the bits of another.
    """
    streams = [task.stream_id for task in tasks]
    requests = [
        Request(task, number, sample, key=(cfg.round, stream, first + number, sample), length_hint=stream)
        for number, (task, stream) in enumerate(zip(tasks, streams, strict=True))
        for sample in range(cfg.samples)
    ]
    found = engine.run(params, requests, version=cfg.round, seed=cfg.seed)
    verdicts = judged([(tasks[i // cfg.samples], one) for i, one in enumerate(found)], cfg.recall, judge)
    out = Harvest([], collections.Counter(), 0, collections.Counter())
    solved = 0
    for number, task in enumerate(tasks):
        kept: dict[tuple[str, ...], records.Demonstration] = {}
        own = slice(number * cfg.samples, (number + 1) * cfg.samples)
        for trajectory, (reason, recall) in zip(found[own], verdicts[own], strict=True):
            signature = _signature(trajectory)
            if not reason and signature in kept:
                reason = "duplicate"
            if not reason and len(kept) == cfg.keep:
                reason = "surplus"
            out.outcomes[reason or "accepted"] += 1
            if not reason:
                kept[signature] = _demonstration(task, trajectory, cfg.round, recall)
                out.queries.update(answer_metrics.normalize(turn.query) for turn in trajectory.turns if turn.query)
        solved += bool(kept)
        out.demonstrations.extend(kept.values())
    return dataclasses.replace(out, solved=solved)


def judged(
    made: Sequence[tuple[records.Task, Trajectory]], floor: float, judge: Judge | None = None
) -> list[tuple[str, float]]:
    """Return for each trajectory (why it is rejected, mean token recall of its spans).

    The reason is '' if it is not rejected, else 'form', 'unsearched' (the answer rests on nothing that was read),
    'wrong' or 'unjudged' (the judge gave no verdict in time)."""
    given = [_spans(task, trajectory) for task, trajectory in made]
    recalls = [_recall(spans, task.answers) for (task, _), spans in zip(made, given, strict=True)]
    reasons = [
        "form" if spans is None else "unsearched" if not trajectory.searches else ""
        for (_, trajectory), spans in zip(made, given, strict=True)
    ]
    verdicts: Sequence[float]
    open_ = [i for i, reason in enumerate(reasons) if not reason]
    if judge is None:
        verdicts = [float(recalls[i] >= floor) for i in open_]
    else:
        verdicts = judge([(made[i][0].text, given[i] or [], made[i][0].answers) for i in open_])
    for i, verdict in zip(open_, verdicts, strict=True):
        reasons[i] = "unjudged" if math.isnan(verdict) else "" if verdict else "wrong"
    return list(zip(reasons, recalls, strict=True))


def _spans(task: records.Task, trajectory: Trajectory) -> list[str] | None:
    """Return the answers of a trajectory, None if it, or its answer, does not have the requested form."""
    text = trajectory.final_answer if trajectory.well_formed else None
    return (
        None if text is None else answer_metrics.spans_of(text, task.answer_form, task.text, task.masks, task.answers)
    )


def _recall(spans: list[str] | None, golds: Sequence[Sequence[str]]) -> float:
    """Return the mean token recall over the spans, 0.0 if there are none."""
    if spans is None:
        return 0.0
    return sum(answer_metrics.token_recall(span, gold) for span, gold in zip(spans, golds, strict=True)) / len(spans)


def distinct(seen: set[tuple[int, ...]], found: Sequence[records.Demonstration]) -> Iterator[records.Demonstration]:
    """Yield the demonstrations whose tokens are not in `seen` (those of earlier rounds), and add them to it."""
    for one in found:
        if (key := tuple(one.ids)) not in seen:
            seen.add(key)
            yield one


def _signature(trajectory: Trajectory) -> tuple[str, ...]:
    """Return what two equal trajectories of a task have in common: their queries and answer, not their thoughts."""
    queries = (answer_metrics.normalize(turn.query) for turn in trajectory.turns if turn.query)
    return (*queries, answer_metrics.normalize(trajectory.answer))


def _demonstration(task: records.Task, trajectory: Trajectory, number: int, recall: float) -> records.Demonstration:
    return records.Demonstration(
        id=f"round_{number}.{task.id}.{trajectory.sample}",
        task_id=task.id,
        masks=task.masks,
        ids=trajectory.ids.tolist(),
        trainable=trajectory.trainable.astype(int).tolist(),
        searches=trajectory.searches,
        recall=recall,
    )
