"""A benchmark of one's own: questions in a file, scored on data that is prepared already.

Enters: the section `benchmarks` of the settings, and the tokenizer and wording of W/data. Leaves: the same tasks that
preparation would have made of the file (prep/tasks/registry.py), made without TensorFlow, and the metric that they are
scored by. Nothing in W/data changes.
"""

import functools
import sys
from pathlib import Path

from ml_collections import ConfigDict

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import QUESTIONS
from masksearch_jax.evals import question_forms
from masksearch_jax.evals.benchmarks import CUSTOM
from masksearch_jax.scoring import answer_metrics
from masksearch_jax.scoring.benchmark_metrics import ChosenMetric
from masksearch_jax.text import tags
from masksearch_jax.workflows.context import RunContext
from masksearch_jax.workflows.few_shot import Wording

_SPLIT = "test"


def check_file(cfg: ConfigDict) -> None:
    """Raise FileNotFoundError or ValueError for a file of `cfg.benchmarks.custom` that cannot be scored."""
    if cfg.benchmarks.custom and cfg.benchmarks.episodes:
        question_forms.read_questions(cfg.benchmarks.custom)


def metric_of(context: RunContext, suite: str) -> ChosenMetric | None:
    """Return the metric that the settings choose for the custom benchmark, None for any other suite."""
    chosen = context.cfg.benchmarks
    return ChosenMetric(chosen.metric, chosen.rules) if suite == CUSTOM else None


def tasks(context: RunContext) -> list[records.Task]:
    """Return the tasks of `cfg.benchmarks.custom`, at most `cfg.benchmarks.episodes`; [] if it is ''.

    Says on stderr how many of the questions W/data trains on. Raises FileNotFoundError, or ValueError that names file,
    line and field.
    """
    chosen = context.cfg.benchmarks
    if not chosen.custom or not chosen.episodes:
        return []
    wording = Wording.load(context.workdir / "data", context.tokenizer)
    found = question_forms.read_questions(chosen.custom)
    found = found if chosen.episodes < 0 else found[: chosen.episodes]
    trained = _trained_on(context.workdir)
    if both := sum(answer_metrics.normalize(question.question) in trained for question in found):
        print(
            f"evaluate: {both} of the {len(found)} questions of {chosen.custom} are also trained on "
            f"({context.workdir / 'data' / 'tasks' / 'train' / QUESTIONS})",
            file=sys.stderr,
        )
    made = []
    for question in found:
        text, answers = tags.neutralise(question.question), [tags.neutralise(one) for one in question.answers]
        made.append(
            records.Task(
                id=f"{_SPLIT}/{QUESTIONS}_{CUSTOM}/{question.id}",
                kind="qa",
                split=_SPLIT,
                prompt=wording.question_prompt(text),
                targets=context.tokenizer.encode(tags.block(tags.ANSWER, answers[0])),
                answer_form="whole",
                answers=[answers],
                span_kinds=["answer"],
                text=text,
                paragraph="",
                title="",
                passage_id=-1,
                article_id=-1,
                supporting=question.supporting_titles,
                benchmark=CUSTOM,
                reference=question.reference,
                details=question.details,
            )
        )
    return made


@functools.lru_cache(maxsize=2)
def _trained_on(workdir: Path) -> frozenset[str]:
    """Return the questions that W/data trains on, normalised."""
    folder = workdir / "data" / "tasks"
    if not (folder / "train" / QUESTIONS).is_dir():
        return frozenset()
    read = (
        task for path in pipeline.task_files(folder, "train", QUESTIONS) for task in records.read(path, records.Task)
    )
    return frozenset(answer_metrics.normalize(task.text) for task in read)
