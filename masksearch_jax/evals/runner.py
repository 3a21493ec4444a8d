"""Run one greedy episode per held-out task, or several sampled ones; score each, and summarise the scores.

Enters: a rollout engine, parameters, tasks. Leaves: one `Row` per task (kept as jsonl, so that every number can be
traced to its episodes) and dicts of means. Masked spans are scored by scoring/answer_metrics.py, averaged over the
spans of an episode and then over episodes. Answers to a benchmark's questions are scored by
scoring/benchmark_metrics.py. An episode without a valid answer scores 0. This module is independent of `rl`, so that a
metric does not change when a reward does. Left out: tables and report.json (evals/report).
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from masksearch_jax.data.records import Task, task_name
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.runtime.types import Json, JsonObject, Params
from masksearch_jax.scoring import answer_metrics, benchmark_metrics
from masksearch_jax.text import tags

# Passage id -> its title and text.
PassageText = Callable[[int], str]


class Engine(Protocol):
    """The part of rollout.engine.RolloutEngine that evaluation uses."""

    def run(
        self, params: Params, requests: Sequence[Request], version: int, seed: int, greedy: bool
    ) -> list[Trajectory]: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluated episode, ready for JSON.

    answer: text inside the answer tags ('' without an answer). spans: the filled spans, None if the answer is missing
    or does not have the asked form. recalls, f1s, ems: per span, all 0 in that case; recall, f1, em: their means. hits:
    per span, whether a retrieved passage contains one of its golds; hit: their mean. format: 1.0 if every turn was a
    valid action and the answer has the asked form. tokens: number of tokens that the policy wrote. distinct_queries:
    number of different queries after normalisation. hits, queries and distinct_queries are over the calls of all tools,
    searches those of the search alone. turns: action, text, query, passage ids, observation and error of
    every turn. benchmark, details: those of the task. loose: FanOutQA's loose accuracy, None if the task has no
    structured answer. score: what the metric that was chosen for the benchmark gives, None if none was chosen. sample:
    which of the sampled episodes of the task this is, 0 for a greedy one.
    """

    task_id: str
    kind: str
    masks: int
    span_kinds: list[str]
    text: str
    golds: list[list[str]]
    answer: str
    spans: list[str] | None
    recalls: list[float]
    f1s: list[float]
    ems: list[float]
    recall: float
    f1: float
    em: float
    format: float
    hits: list[bool]
    hit: float
    searches: int
    queries: list[str]
    distinct_queries: int
    tokens: int
    stop: str
    turns: list[JsonObject]
    benchmark: str = ""
    details: dict[str, str] = dataclasses.field(default_factory=dict)
    loose: float | None = None
    score: float | None = None
    sample: int = 0

    @property
    def suite(self) -> str:
        """The suite of the row: its benchmark, or else the name of its task."""
        return self.benchmark or task_name(self.kind, self.masks)


# --- Running ---------------------------------------------------------------------------------------------------------


def evaluate(
    engine: Engine,
    params: Params,
    tasks: Sequence[Task],
    *,
    version: int = 0,
    seed: int = 0,
    forced_search: Callable[[Task], str] | None = None,
    passage_text: PassageText | None = None,
    chunk: int = 512,
    progress: Callable[[int], None] | None = None,
    metric: benchmark_metrics.ChosenMetric | None = None,
    samples: int = 0,
) -> list[Row]:
    """Run one greedy episode for each task, or `samples` sampled ones; return their rows in task order.

    forced_search: writes the one query of an episode in which the policy only answers, such as `one_search_query`.
    passage_text: looks up retrieved passages for `hit`; without it `hit` reads the observations, which may be
    truncated. progress: called after every `chunk` episodes or so with the number of tasks just finished. metric: the
    metric of a benchmark of one's own. samples: 0 for greedy episodes; sampled ones have the engine's temperature, and
    those of a task follow each other.
    Raises ValueError if there are no tasks, or if the engine returns trajectories of other tasks.
    """
    if not tasks:
        raise ValueError("nothing to evaluate: no tasks given")
    rows = []
    chunk = max(1, chunk // max(1, samples))
    for start in range(0, len(tasks), chunk):
        part = tasks[start : start + chunk]
        asked = [(index, task, sample) for index, task in enumerate(part, start) for sample in range(samples or 1)]
        requests = [
            Request(
                task=task,
                group=index,
                sample=sample,
                key=(index, sample),
                forced_search=forced_search(task) if forced_search else None,
            )
            for index, task, sample in asked
        ]
        trajectories = engine.run(params, requests, version=version, seed=seed, greedy=not samples)
        if [t.task_id for t in trajectories] != [task.id for _, task, _ in asked]:
            raise ValueError("the engine returned trajectories of other tasks than requested, or in another order")
        rows += [
            dataclasses.replace(score_row(task, one, passage_text, metric), sample=sample)
            for (_, task, sample), one in zip(asked, trajectories, strict=True)
        ]
        if progress:
            progress(len(part))
    return rows


def one_search_query(task: Task, words: int = 12) -> str:
    """Return the query of the baseline with one retrieval (plain RAG): the text around the first mask, without masks.

    words: how many words to take on each side of the mask. A question is its own query.
    """
    if task.kind == "qa":
        return tags.neutralise(task.text)
    before, _, after = task.text.partition(tags.MASK)
    around = [*before.split()[-words:], *after.replace(tags.MASK, " ").split()[:words]]
    return tags.neutralise(" ".join(around))


def score_row(
    task: Task,
    trajectory: Trajectory,
    passage_text: PassageText | None = None,
    metric: benchmark_metrics.ChosenMetric | None = None,
) -> Row:
    """Return the row of one episode. It scores `trajectory.final_answer`."""
    text = trajectory.final_answer
    spans = (
        None if text is None else answer_metrics.spans_of(text, task.answer_form, task.text, task.masks, task.answers)
    )

    scores, chosen = _scores(task, spans), None
    if metric:
        own, chosen = metric.of(spans[0], task.answers[0]) if spans else (benchmark_metrics.Scores(0.0, 0.0, 0.0), 0.0)
        scores = [own]
    recalls, f1s, ems = ([getattr(one, name) for one in scores] for name in ("recall", "f1", "em"))
    searched = [turn for turn in trajectory.turns if turn.tool]
    if passage_text:
        found = [passage_text(passage) for turn in searched for passage in turn.hits]
    else:
        found = [turn.observation for turn in searched]
    hits = [any(answer_metrics.contains(passage, golds) for passage in found) for golds in task.answers]
    return Row(
        task_id=task.id,
        kind=task.kind,
        masks=task.masks,
        span_kinds=list(task.span_kinds),
        text=task.text,
        golds=[list(golds) for golds in task.answers],
        answer=text or "",
        spans=spans,
        recalls=recalls,
        f1s=f1s,
        ems=ems,
        recall=_mean(recalls),
        f1=_mean(f1s),
        em=_mean(ems),
        format=float(trajectory.well_formed and spans is not None),
        hits=hits,
        hit=_mean(hits),
        searches=trajectory.searches,
        queries=[turn.query for turn in searched],
        distinct_queries=len({answer_metrics.normalize(turn.query) for turn in searched}),
        tokens=trajectory.generated,
        stop=trajectory.stop.value,
        turns=[
            {
                "action": turn.action,
                "text": turn.text,
                "query": turn.query,
                "passages": list(turn.hits),
                "observation": turn.observation,
                "error": turn.error,
            }
            for turn in trajectory.turns
        ],
        benchmark=task.benchmark,
        details=dict(task.details),
        loose=scores[0].loose,
        score=chosen,
    )


def _scores(task: Task, spans: Sequence[str] | None) -> list[benchmark_metrics.Scores]:
    """Return the scores of each span; questions of a benchmark follow its rules. Without a valid answer all are 0."""
    if spans is None:
        return [benchmark_metrics.Scores(0.0, 0.0, 0.0, None if task.reference is None else 0.0)] * task.masks
    if task.benchmark:
        return [benchmark_metrics.score(task.benchmark, spans[0], task.answers[0], task.reference)]
    return [
        benchmark_metrics.Scores(
            answer_metrics.token_recall(span, golds),
            answer_metrics.f1(span, golds),
            answer_metrics.exact_match(span, golds),
        )
        for span, golds in zip(spans, task.answers, strict=True)
    ]


# --- Summing up ------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> JsonObject:
    """Return means over episodes.

    The keys are recall, recall_se (standard error, None for one episode), em, f1, format, hit, searches, tokens,
    distinct_queries, queries_per_mask (distinct queries / masks, which shows how far tasks are decomposed), by_kind
    {span kind: recall over its spans}, stops {stop reason: share}, the count `episodes`, and loose and score if every
    row has them.

    Raises ValueError if there are no rows.
    """
    if not rows:
        raise ValueError("nothing to summarise: no rows given")
    by_kind = collections.defaultdict(list)
    for row in rows:
        for kind, recall in zip(row.span_kinds, row.recalls, strict=True):
            by_kind[kind].append(recall)
    stops = collections.Counter(row.stop for row in rows)
    optional = {"loose": [row.loose for row in rows], "score": [row.score for row in rows]}
    means = {
        name: _mean([getattr(row, name) for row in rows])
        for name in ("recall", "em", "f1", "format", "hit", "searches", "tokens", "distinct_queries")
    }
    return (
        means
        | {
            "recall_se": standard_error([row.recall for row in rows]),
            "queries_per_mask": _mean([row.distinct_queries / row.masks for row in rows]),
            "by_kind": {kind: _mean(values) for kind, values in sorted(by_kind.items())},
            "stops": {reason: count / len(rows) for reason, count in sorted(stops.items())},
            "episodes": len(rows),
        }
        | {
            name: _mean([value for value in values if value is not None])
            for name, values in optional.items()
            if None not in values
        }
    )


def compare(before: Sequence[Row], after: Sequence[Row], score: str = "recall") -> dict[str, float | None]:
    """Return {'difference', 'se', 'episodes'} of `score`, after minus before, paired by task.

    se: standard error of the mean paired difference. Raises ValueError unless both have the same tasks, each once.
    """
    left, right = ({row.task_id: getattr(row, score) for row in rows} for rows in (before, after))
    if left.keys() != right.keys() or len(left) != len(before) or len(right) != len(after):
        raise ValueError("only rows of the same tasks, each once, can be compared; evaluate both on one split")
    differences = [right[task] - left[task] for task in sorted(left)]
    return {"difference": _mean(differences), "se": standard_error(differences), "episodes": len(differences)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean of n values, None for n < 2."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


# --- On disk ---------------------------------------------------------------------------------------------------------


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Write rows as jsonl, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
    partial.replace(path)


def write_json(path: Path | str, content: Json) -> None:
    """Write JSON atomically, so that the file is never seen half written."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)


def read_rows(path: Path | str) -> list[Row]:
    """Return the rows of a jsonl file. Raises ValueError that names file and line for a line that is not a row."""
    rows = []
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(Row(**parse_json(line)))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: not a row of this version ({error}); "
                    "run `python -m masksearch_jax.evaluate` again"
                ) from error
    return rows
