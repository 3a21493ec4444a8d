"""Greedy episodes over held-out tasks, scored one by one: rows, and what they sum up to.

In: a rollout engine, parameters, tasks. Out: one `Row` per task (kept as jsonl, so that any number can be traced to the
episode behind it) and dicts of means. Scores are those of text.answers on the masked spans, averaged over the spans of
an episode and then over episodes, and those of text.official on the answers to a benchmark's questions; an episode
without a valid answer scores 0. Independent of rl: a metric must not move when a reward does. Left out: tables and
report.json (evals/report.py).
"""

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from masksearch_jax.data.records import Task
from masksearch_jax.rollout.request import Request
from masksearch_jax.rollout.trajectory import Trajectory
from masksearch_jax.runtime.json_files import parse_json
from masksearch_jax.text import answers, official, tags

# Passage id -> its title and text.
PassageText = Callable[[int], str]


class Engine(Protocol):
    """What evaluation needs of rollout.engine.RolloutEngine."""

    def run(
        self, params: Any, requests: Sequence[Request], version: int, seed: int, greedy: bool
    ) -> list[Trajectory]: ...


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluated episode, ready for JSON.

    answer: text inside the answer tags ('' without one). spans: the filled spans, None if the answer is missing or not
    of the asked form. recalls, f1s, ems: per span, all 0 in that case; recall, f1, em: their means. hits: per span,
    whether some retrieved passage contains one of its golds; hit: their mean. format: 1.0 if every turn was a valid
    action and the answer has the asked form. tokens: written by the policy. distinct_queries: after normalisation.
    turns: action, text, query, passage ids, observation and error of every turn. benchmark, details: of the task.
    loose: FanOutQA's loose accuracy, None where the task has no structured answer.
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
    turns: list[dict[str, Any]]
    benchmark: str = ""
    details: dict[str, str] = dataclasses.field(default_factory=dict)
    loose: float | None = None


# --- Running ---------------------------------------------------------------------------------------------------------


def evaluate(
    engine: Engine,
    params: Any,
    tasks: Sequence[Task],
    *,
    version: int = 0,
    seed: int = 0,
    forced_search: Callable[[Task], str] | None = None,
    passage_text: PassageText | None = None,
    chunk: int = 512,
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Runs one greedy episode for each task and returns their rows, in task order.

    forced_search: writes the one query of an episode without further agency, such as `one_search_query`.
    passage_text: looks up retrieved passages for `hit`; without it the observations are read, as truncated as the
    policy saw them. progress: called with the number of episodes just finished, every `chunk` tasks.
    Raises ValueError for no tasks, or an engine that returns trajectories of other tasks.
    """
    if not tasks:
        raise ValueError("nothing to evaluate: no tasks given")
    rows = []
    for start in range(0, len(tasks), chunk):
        part = tasks[start : start + chunk]
        requests = [
            Request(
                task=task,
                group=index,
                sample=0,
                key=(index, 0),
                forced_search=forced_search(task) if forced_search else None,
            )
            for index, task in enumerate(part, start)
        ]
        trajectories = engine.run(params, requests, version=version, seed=seed, greedy=True)
        if [t.task_id for t in trajectories] != [task.id for task in part]:
            raise ValueError("the engine returned trajectories of other tasks than requested, or in another order")
        rows += [score_row(task, one, passage_text) for task, one in zip(part, trajectories, strict=True)]
        if progress:
            progress(len(part))
    return rows


def one_search_query(task: Task, words: int = 12) -> str:
    """Returns the query of the one-retrieval baseline: the text around the first mask, masks removed (plain RAG).

    words: how many to take on each side of the mask. A question is its own query.
    """
    if task.kind == "qa":
        return tags.neutralise(task.text)
    before, _, after = task.text.partition(tags.MASK)
    around = [*before.split()[-words:], *after.replace(tags.MASK, " ").split()[:words]]
    return tags.neutralise(" ".join(around))


def score_row(task: Task, trajectory: Trajectory, passage_text: PassageText | None = None) -> Row:
    """Returns the row of one episode, by the answer that the episode read."""
    text = trajectory.final_answer
    spans = None if text is None else answers.spans_of(text, task.answer_form, task.text, task.masks, task.answers)

    scores = _scores(task, spans)
    recalls, f1s, ems = ([getattr(one, name) for one in scores] for name in ("recall", "f1", "em"))
    searched = [turn for turn in trajectory.turns if turn.action == "search"]
    if passage_text:
        found = [passage_text(passage) for turn in searched for passage in turn.hits]
    else:
        found = [turn.observation for turn in searched]
    hits = [any(answers.contains(passage, golds) for passage in found) for golds in task.answers]
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
        distinct_queries=len({answers.normalize(turn.query) for turn in searched}),
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
    )


def _scores(task: Task, spans: Sequence[str] | None) -> list[official.Scores]:
    """The scores of each span: by its own rules for a benchmark, and no better than 0 without a valid answer."""
    if spans is None:
        return [official.Scores(0.0, 0.0, 0.0, None if task.reference is None else 0.0)] * task.masks
    if task.benchmark:
        return [official.score(task.benchmark, spans[0], task.answers[0], task.reference)]
    return [
        official.Scores(answers.token_recall(span, golds), answers.f1(span, golds), answers.exact_match(span, golds))
        for span, golds in zip(spans, task.answers, strict=True)
    ]


# --- Summing up ------------------------------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns means over episodes: recall, recall_se (standard error, None for one episode), em, f1, format, hit,
    searches, tokens, distinct_queries, queries_per_mask (distinct queries over masks: how far tasks are decomposed),
    by_kind {span kind: recall over its spans}, stops {stop reason: share}, and the count `episodes`; loose where every
    row has it.

    Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("nothing to summarise: no rows given")
    by_kind = collections.defaultdict(list)
    for row in rows:
        for kind, recall in zip(row.span_kinds, row.recalls, strict=True):
            by_kind[kind].append(recall)
    stops = collections.Counter(row.stop for row in rows)
    loose = [row.loose for row in rows if row.loose is not None]
    means = {
        name: _mean([getattr(row, name) for row in rows])
        for name in ("recall", "em", "f1", "format", "hit", "searches", "tokens", "distinct_queries")
    }
    return means | {
        "recall_se": standard_error([row.recall for row in rows]),
        "queries_per_mask": _mean([row.distinct_queries / row.masks for row in rows]),
        "by_kind": {kind: _mean(values) for kind, values in sorted(by_kind.items())},
        "stops": {reason: count / len(rows) for reason, count in sorted(stops.items())},
        "episodes": len(rows),
    } | ({"loose": _mean(loose)} if len(loose) == len(rows) else {})


def per_masks(rows: Iterable[Row]) -> dict[str, dict[str, Any]]:
    """Returns `summarise` of the rows of each number of masks, keyed by that number as JSON needs it."""
    levels = collections.defaultdict(list)
    for row in rows:
        levels[row.masks].append(row)
    return {str(masks): summarise(levels[masks]) for masks in sorted(levels)}


def compare(before: Sequence[Row], after: Sequence[Row], score: str = "recall") -> dict[str, float | None]:
    """Returns {'difference', 'se', 'episodes'} of `score`, after minus before, paired by task.

    se: standard error of the mean paired difference. Raises ValueError unless both hold the same tasks.
    """
    left, right = ({row.task_id: getattr(row, score) for row in rows} for rows in (before, after))
    if left.keys() != right.keys() or len(left) != len(before) or len(right) != len(after):
        raise ValueError("only rows of the same tasks, each once, can be compared; evaluate both on one split")
    differences = [right[task] - left[task] for task in sorted(left)]
    return {"difference": _mean(differences), "se": standard_error(differences), "episodes": len(differences)}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def standard_error(values: Sequence[float]) -> float | None:
    """Returns the standard error of the mean of n values, None for n < 2."""
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


# --- On disk ---------------------------------------------------------------------------------------------------------


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Writes rows as jsonl, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
    partial.replace(path)


def write_json(path: Path | str, content: Any) -> None:
    """Writes JSON atomically: whoever finds the file finds all of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(path)


def read_rows(path: Path | str) -> list[Row]:
    """Returns the rows of a jsonl file; raises ValueError that names file and line for anything else."""
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
