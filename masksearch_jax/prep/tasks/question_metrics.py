"""Postprocessing and metric functions with which SeqIO's Evaluator scores question tasks.

Enters: decoded model outputs, and examples of a question task. Leaves: {'recall', 'f1', 'em'} and, where the references
are structured (FanOutQA), 'loose'. They are means over the examples, in [0, 1], by the same functions as
evals/runner.py.
"""

import json
from collections.abc import Callable, Mapping, Sequence

from masksearch_jax.runtime.types import Json
from masksearch_jax.scoring import answer_metrics, benchmark_metrics
from masksearch_jax.text import prompt

_OWN = (answer_metrics.token_recall, answer_metrics.f1, answer_metrics.exact_match)


def postprocess(
    output: str, example: Mapping[str, Json] | None = None, is_target: bool = False, opened: str = ""
) -> Json:
    """Return what is scored of a target or of a model's output.

    For a target: {'answers': accepted strings, 'reference': structured answer or None}. For a model's output: what an
    episode would read as its answer, or '' without a valid answer. opened: as prompt.opened_thought gives it for the
    prompts.
    """
    if not is_target:
        action = prompt.parse_stopped_turn(opened + output)
        return action.content if action.kind == "answer" else ""
    assert example is not None  # SeqIO gives the example of every target
    extra = json.loads(bytes(example["extra"]))
    return {"answers": [bytes(a).decode() for a in example["answers"]], "reference": extra.get("reference")}


def scores_of(benchmark: str) -> Callable[..., dict[str, float]]:
    """Return the metric function of a benchmark, or of our own questions for ''."""

    def scores(targets: Sequence[Mapping[str, Json]], predictions: Sequence[str]) -> dict[str, float]:
        rows = [
            benchmark_metrics.score(benchmark, said, target["answers"], target["reference"])
            if benchmark
            else benchmark_metrics.Scores(*(score(said, target["answers"]) for score in _OWN))
            for target, said in zip(targets, predictions, strict=True)
        ]
        means = {name: sum(getattr(row, name) for row in rows) / len(rows) for name in ("recall", "f1", "em")}
        loose = [row.loose for row in rows if row.loose is not None]
        return means | ({"loose": sum(loose) / len(loose)} if loose else {})

    return scores
