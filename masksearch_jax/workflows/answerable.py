"""Which training tasks a search can answer: the tasks that DAPO draws from with `dapo.answerable_only`.

Enters: the tasks of the training split, and the index for training. Leaves: the ids of the tasks for which a search for
the title (teachers/copy_rule.py) finds the answer of at least one mask. In a group of episodes on another task hardly
one is right; all rewards are then equal, and dynamic sampling drops the group after it was paid for. The paper draws
from all tasks. Held-out tasks are never chosen this way.
"""

from masksearch_jax.data import pipeline, records
from masksearch_jax.data.curriculum import Curriculum
from masksearch_jax.retrieval import interface
from masksearch_jax.runtime import distributed, metrics
from masksearch_jax.runtime.types import Json
from masksearch_jax.teachers import copy_rule
from masksearch_jax.workflows.context import RunContext


def task_ids(context: RunContext) -> frozenset[str]:
    """Return the ids of the answerable tasks among those of `dapo.curriculum`.

    Tasks that are not RAMP (questions, tool warm-up) are all answerable. Raises ValueError that names a task of the
    curriculum of which no record is answerable.
    """
    cfg = context.cfg
    curriculum = Curriculum([(prompts, dict(weights)) for prompts, weights in cfg.dapo.curriculum])
    chosen: set[str] = set()
    for name in curriculum.tasks:
        total = 0
        found: list[str] = []
        for file in pipeline.task_files(context.workdir / "data" / "tasks", "train", name):
            tasks = [task.as_task(name) for task in records.read(file, records.Task)]
            total += len(tasks)
            found += _answerable(tasks, context.searcher("train"), cfg.search.hits)
        if not found:
            raise ValueError(
                f"dapo.answerable_only=True: a search for its title answers none of the {total} training tasks of "
                f"{name}; set it to False, raise search.hits (now {cfg.search.hits}), or take {name} out of "
                "dapo.curriculum"
            )
        metrics.say("dapo", f"draws from {len(found)} answerable of {total} tasks of {name}", distributed.primary())
        chosen.update(found)
    return frozenset(chosen)


def _answerable(tasks: list[records.Task], searcher: interface.Searcher, hits: int) -> list[str]:
    asked = [task for task in tasks if task.kind.startswith("ramp")]
    read = {one.task_id: one.found for one in copy_rule.measure(asked, searcher, hits, _shown)}
    return [task.id for task in tasks if read.get(task.id, 1.0) > 0]


def _shown(hits: Json) -> str:
    return " ".join(f"{hit.title}: {hit.text}" for hit in hits)
